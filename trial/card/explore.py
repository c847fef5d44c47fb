"""Arms in one program: explore.py SIZE ROWS SECONDS NAME:LR:SCHEDULE ... ; a schedule is until=pool+pool*w,until=..."""
import sys, time, json, numpy as np, os
T0=time.time()
import jax, jax.numpy as jnp, optax
HERE=os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE+"/w2")
from rlhf_jax.pipeline import pretrain as pt
from rlhf_jax.model import params, transformer, likelihood
from rlhf_jax.mesh import make_mesh
from rlhf_jax import inference
size, rows, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
maxsteps = int(os.environ.get("MAXSTEPS","1000000"))
arms=[a.split(":") for a in sys.argv[4:]]
N=len(arms)
G=np.load(HERE+"/gates.npz"); NO=int(G["no"]); V=int(G["vocab"]); PAD=int(G["pad"]); VERD=[int(x) for x in G["verdicts"]]
names=sorted({p.split("*")[0] for a in arms for ph in a[2].split(",") for p in ph.split("=")[1].split("+")})
pool={n:dict(np.load(f"{HERE}/pool_{n}.npz")) for n in names}
starts={}; o=0
for n in names: starts[n]=(o,len(pool[n]["t"])); o+=len(pool[n]["t"])
T=jnp.asarray(np.concatenate([pool[n]["t"] for n in names])); S=jnp.asarray(np.concatenate([pool[n]["s"] for n in names])); W=jnp.asarray(np.concatenate([pool[n]["w"] for n in names]))
if size not in pt.SIZES:
    w,h=size.split("x"); pt.SIZES[size]=pt.Size(int(w),int(h),1e-3)
model=pt.model_of(pt.SIZES[size])
LAY=os.environ.get("LAYERS")
import dataclasses
if LAY: model=dataclasses.replace(model,layers=int(LAY))
if os.environ.get("POS"): model=dataclasses.replace(model,positions=os.environ["POS"])
if os.environ.get("ROT"): model=dataclasses.replace(model,rotary=dataclasses.replace(model.rotary,fraction=float(os.environ["ROT"])))
EXIT=int(os.environ.get("EXIT","0")); EW=float(os.environ.get("EW","1"))
EWS=jnp.array([float(a[3]) if len(a)>3 else 0. for a in arms])
lrs=jnp.array([float(a[1]) for a in arms])
def sched(a):
    out=[]
    for ph in a[2].split(","):
        u,ps=ph.split("="); d={}
        for p in ps.split("+"):
            q=p.split("*"); d[q[0]]=float(q[1]) if len(q)>1 else 1.
        out.append((float(u),d))
    return out
SCH=[sched(a) for a in arms]
CH=int(os.environ.get("CH","100"))  # steps a chunk
rng=np.random.default_rng(int(os.environ.get("SEED","0")))
cursor=[{n:0 for n in names} for _ in arms]
perm=[{n:rng.permutation(starts[n][1]) for n in names} for _ in arms]
def draw(arm, frac, k):
    d=next((d for u,d in SCH[arm] if frac<u),SCH[arm][-1][1])
    ks=list(d); p=np.array([d[x] for x in ks]); which=rng.choice(len(ks),size=k,p=p/p.sum()); out=np.empty(k,np.int32)
    for j,n in enumerate(ks):
        m=which==j; c=m.sum(); a0,l=starts[n]; idx=(cursor[arm][n]+np.arange(c))%l; cursor[arm][n]+=c
        out[m]=a0+perm[arm][n][idx]
    return out
mesh=make_mesh()
with jax.set_mesh(mesh):
    specs=transformer.specs(model,V)
    one=[jax.jit(lambda s=s: params.init(specs,jax.random.key(s)))() for s in range(N)]
    print(size,"params",params.count(specs),"arms",N,flush=True)
    stack=jax.tree.map(lambda *x: jnp.asarray(np.stack([np.asarray(y) for y in x])),*one)
    if os.environ.get("OPT")=="muon":
        from optax.contrib import MuonDimensionNumbers as MD
        PH=os.environ.get("PERHEAD","1")=="1"
        def dims(path,x):
            n=jax.tree_util.keystr(path)
            if "layers" not in n: return None
            if "'query'" in n: return MD(1,4) if PH else MD(1,(2,3,4))
            if "'key'" in n or "'value'" in n: return MD(1,3) if PH else MD(1,(2,3))
            if "'out'" in n: return MD(3,4) if PH else MD((1,2,3),4)
            if "'up'" in n or "'down'" in n: return MD(1,2)
            return None
        D=jax.tree_util.tree_map_with_path(dims,one[0])
        opt=optax.chain(optax.clip_by_global_norm(1.0),optax.contrib.muon(-1.0,muon_weight_dimension_numbers=D,consistent_rms=float(os.environ.get("RMS","0.2")),adam_b2=.95))
    else: opt=optax.chain(optax.clip_by_global_norm(1.0),optax.scale_by_adam(b1=.9,b2=.95))
    ostate=jax.vmap(opt.init)(stack)
    def lossf(w,b,s,wt,ew):
        if EXIT:
            *lows,h=transformer.apply_in_parts(w,model,b[:,:-1],s[:,:-1],model.layers//EXIT)
        else: h=transformer.apply(w,model,b[:,:-1],s[:,:-1])
        lp,_=likelihood.token_logprobs(w,model,h,b[:,1:])
        y=b[:,1:]; wt=wt[:,1:]
        v=((y==VERD[0])|(y==VERD[1]))&(wt==1); r=(wt==1)&~v
        other,_=likelihood.token_logprobs(w,model,h,jnp.where(y==VERD[0],VERD[1],VERD[0]))
        extra=0.
        if EXIT:
            for h2 in lows:
                lp2,_=likelihood.token_logprobs(w,model,h2,b[:,1:]); extra=extra-ew*jnp.sum(lp2*wt)/wt.sum()
        return extra-jnp.sum(lp*wt)/wt.sum(), (jnp.sum(jax.nn.softplus(other-lp)*v)/jnp.maximum(v.sum(),1), -jnp.sum(lp*r)/jnp.maximum(r.sum(),1), -jnp.sum(lp*((y==NO)&(wt==1)))/jnp.maximum(((y==NO)&(wt==1)).sum(),1))
    def one_step(w,os_,idx,lr,ew):
        b=T[idx].astype(jnp.int32); s=S[idx].astype(jnp.int32); wt=W[idx].astype(jnp.float32)/10
        (l,m),g=jax.value_and_grad(lossf,has_aux=True)(w,b,s,wt,ew)
        u,os_=opt.update(g,os_,w)
        return jax.tree.map(lambda a,c:a-lr*c,w,u),os_,m
    @jax.jit
    def chunk(w,os_,idx,lr):  # idx [CH,N,rows], lr [CH,N]
        def f(c,x):
            w,os_=c; i,l=x
            w,os_,m=jax.vmap(one_step)(w,os_,i,l,EWS)
            return (w,os_),m
        (w,os_),m=jax.lax.scan(f,(w,os_),(idx,lr))
        return w,os_,jax.tree.map(lambda x:x.mean(0),m)
    gt=jnp.asarray(G["tokens"].astype(np.int32)); gl=jnp.asarray(G["last"]); GN=int(G["n"]); K=len(G["names"])
    @jax.jit
    def gate(w):
        def f(_,x):
            t,l=x
            h=jax.vmap(lambda w:jnp.take_along_axis(transformer.apply(w,model,t,(t!=PAD).astype(jnp.int32)),l[:,None,None],axis=1))(w)
            z=jax.vmap(lambda w,h:transformer.logits(w,model,h)[:,0])(w,h)
            return None,z[...,VERD[1]]-z[...,VERD[0]]
        _,z=jax.lax.scan(f,None,(gt.reshape(K,2*GN,-1),gl.reshape(K,2*GN)))
        return z.transpose(1,0,2)
    def gates(w):
        z=np.asarray(gate(w)); tr,fa=z[...,::2],z[...,1::2]
        acc=((tr<0).mean(-1)+(fa>0).mean(-1))/2
        return acc
    # time a chunk
    def inputs(step,total):
        idx=np.stack([np.stack([draw(a,(step+k)/total,rows) for a in range(N)]) for k in range(CH)])
        fr=(step+np.arange(CH))/total
        lr=np.minimum(1,(step+1+np.arange(CH))/200)*np.minimum(1,np.maximum(0.02,(1-fr)/.25))
        return jnp.asarray(idx),jnp.asarray(lr[:,None],jnp.float32)*lrs[None]
    i0,l0=inputs(0,10**6)
    t=time.time(); c=chunk.lower(stack,ostate,i0,l0).compile(); print("compile",time.time()-t,flush=True)
    t=time.time(); jax.block_until_ready(c(stack,ostate,i0,l0*0)); 
    t=time.time(); jax.block_until_ready(c(stack,ostate,i0,l0*0)); dt=time.time()-t
    total=min(maxsteps,int((seconds-(time.time()-T0)-8)/dt*.93))*CH
    print(f"ms/step {dt/CH*1e3:.2f}; steps {total}; tokens each {total*rows*128*.9/1e6:.0f}M",flush=True)
    for a in range(N): cursor[a]={n:0 for n in names}
    w,os_=stack,ostate; every=max(1,total//CH//int(os.environ.get("GATES","6"))); acc=[]
    nxt=inputs(0,total)
    for k in range(total//CH):
        w,os_,m=c(w,os_,*nxt)
        if k+1<total//CH: nxt=inputs((k+1)*CH,total)
        acc.append(m); jax.block_until_ready(acc[max(0,len(acc)-2)])
        late=time.time()-T0>seconds-6
        if (k+1)%every==0 or k+1==total//CH or late:
            mv=[np.mean([np.asarray(x[j]) for x in acc],0) for j in (0,1,2)]; acc=[]
            A=gates(w); print(f"--- {(k+1)*CH} {time.time()-T0:.0f}s",flush=True)
            for a in range(N):
                d=dict(zip([str(x) for x in G["names"]],A[a]))
                s=" ".join(f"{n}:{min(d[x] for x in d if x.startswith(n))*100:.0f}" for n in ("1:","3:"))+" "+" ".join(f"{x[2:5]}{d[x]*100:.0f}" for x in d if x.startswith("2:"))
                p=" ".join(f"{x[5:8]}{d[x]*100:.0f}" for x in d if x.startswith("post"))
                print(f"{arms[a][0]:>10} v{mv[0][a]:.3f} r{mv[1][a]:.3f} n{mv[2][a]:.3f} | {s} | {p}",flush=True)
        if late: break
    out=os.environ.get("OUT")
    if out and os.environ.get("SAVE"):
        np.savez(f"{out}/{os.environ['SAVE']}.npz",**{jax.tree_util.keystr(p):np.asarray(x).astype(np.float16) for p,x in jax.tree_util.tree_flatten_with_path(w)[0]})