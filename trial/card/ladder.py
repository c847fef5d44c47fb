"""The ladder in the time there is: pretrain.train with the course's length settled after some steps."""
import sys, os, time, math, json
T0=time.time()
HERE=os.path.dirname(os.path.abspath(__file__)); sys.path.insert(0,HERE+"/w2")
from collections import deque
def main():
    import numpy as np, jax, jax.numpy as jnp, optax
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context
    from rlhf_jax.pipeline import pretrain as pt
    from rlhf_jax.data.mini import rows as R
    from rlhf_jax.data.tokenizer import load_tokenizer
    from rlhf_jax.mesh import make_mesh, to_devices
    from rlhf_jax.model import params, transformer, likelihood
    from rlhf_jax.training.state import TrainState, update, value_and_grad_in_parts
    from rlhf_jax.config import OptimizerConfig
    seconds=float(sys.argv[1]); out=sys.argv[2]; sizes=sys.argv[3].split(","); cap=int(os.environ.get("CAP","1000000")); workers=int(os.environ.get("WORKERS","14"))
    TOK=HERE+"/tok"; tok=load_tokenizer(TOK); VERD=[tok.encode(x)[0] for x in (" true."," false.")]
    guess=9000
    pool=ProcessPoolExecutor(workers,get_context("spawn"))
    ahead=deque(pool.submit(R.batch,TOK,0,guess,i) for i in range(64)); nxt=64
    models={s:pt.model_of(pt.SIZES[s]) for s in sizes}
    mesh=make_mesh(); peaks=None
    with jax.set_mesh(mesh):
        specs={s:transformer.specs(models[s],tok.vocab_size) for s in sizes}
        def tx():
            one=lambda lr: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(lr,b1=.9,b2=.95,weight_decay=OptimizerConfig().weight_decay,eps=OptimizerConfig().epsilon))
            return optax.multi_transform({s:one(pt.SIZES[s].learning_rate) for s in sizes},{s:s for s in sizes})
        state=jax.jit(lambda: TrainState.create(pt._start(specs,0),tx()))()
        print({s:params.count(specs[s]) for s in sizes},OptimizerConfig().weight_decay,OptimizerConfig().epsilon,flush=True)
        parts=R.ROWS//4 if jax.default_backend()=="cpu" else 1
        def step(state,batch,f):
            totals=jnp.sum(batch["weights"]),jnp.sum(batch["weights"]==1.0)
            def losses(weights,part):
                found={s:pt.loss(weights[s],models[s],part,*totals) for s in sizes}
                return sum(v for v,_ in found.values()),{s:t for s,(_,t) in found.items()}
            (value,m),g=value_and_grad_in_parts(losses,state.params,batch,parts)
            new,told=update(state,value,g)
            new=new.replace(params=jax.tree.map(lambda a,b:a+f*(b-a),state.params,new.params))
            return new,m
        step=jax.jit(step,donate_argnums=0)
        total=guess
        def factor(i):
            if i<100: return i/100
            return .5*(1+math.cos(math.pi*min(1,(i-100)/(total-100))))
        t1=None; last=deque(); acc=[]; tokens=0; i=0
        while i<total:
            b=ahead.popleft().result(); ahead.append(pool.submit(R.batch,TOK,0,total,nxt)) if nxt<total else None; nxt+=1
            tokens+=int((b["segments"]>0).sum()); db=to_devices(b,mesh)
            state,m=step(state,db,jnp.float32(factor(i))); acc.append(m); i+=1
            last.append(m)
            if len(last)>3: jax.block_until_ready(last.popleft())
            if i==10: jax.block_until_ready(m); t1=time.time(); print(f"compiled {t1-T0:.0f}s",flush=True)
            if i==110:
                jax.block_until_ready(m); dt=(time.time()-t1)/100
                total=min(cap,int((seconds-(time.time()-T0)-17)/(dt*1.04)))
                print(f"{dt*1e3:.1f} ms a step, {total} steps",flush=True)
            if i%250==0 or i==total:
                mean={s:float(np.mean([float(x[s]) for x in acc])) for s in sizes}; acc=[]
                print(f"{i} {time.time()-T0:.0f}s {tokens/1e6:.1f}M f{factor(i):.2f} "+" ".join(f"{s}: {mean[s]:.3f}" for s in sizes),flush=True)
            if time.time()-T0>seconds-8: print("cut",flush=True); break
        names={}
        for s in sizes:
            np.savez(f"{out}/{s}.npz",**{jax.tree_util.keystr(p):np.asarray(x,dtype=np.float32) for p,x in jax.tree_util.tree_flatten_with_path(state.params[s])[0]})
        json.dump({"steps":i,"total":total,"tokens":tokens,"sizes":sizes},open(f"{out}/about.json","w"))
        print("saved",time.time()-T0,flush=True)
        os._exit(0)
if __name__=="__main__": main()
