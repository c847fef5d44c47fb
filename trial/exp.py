"""quick experiments: exp.py name kinds lr ... prints verdict/rest loss; documents by mixture; ROW configurable"""
import sys,time,argparse
import numpy as np, jax, jax.numpy as jnp
from multiprocessing import Pool
import rlhf_jax.data.mini.documents as D
from rlhf_jax.config import *
from rlhf_jax.config import HealthConfig
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.mesh import make_mesh,to_devices
from rlhf_jax.model import params,transformer,likelihood
from rlhf_jax.training.state import starting,update,value_and_grad_in_parts
from rlhf_jax.pipeline.pretrain import loss
a=argparse.ArgumentParser()
a.add_argument("--kinds",default=""); a.add_argument("--lr",type=float,default=2e-3); a.add_argument("--steps",type=int,default=400); a.add_argument("--rows",type=int,default=32); a.add_argument("--row",type=int,default=128)
a.add_argument("--width",type=int,default=72); a.add_argument("--layers",type=int,default=4); a.add_argument("--heads",type=int,default=3); a.add_argument("--b2",type=float,default=.98); a.add_argument("--facts",default=""); a.add_argument("--var",default=""); a.add_argument("--claims",type=int,default=0); a.add_argument("--mb",type=int,default=8); a.add_argument("--every",type=int,default=50); a.add_argument("--warmup",type=int,default=50); a.add_argument("--story",type=float,default=.1); a.add_argument("--is",dest="iscale",type=float,default=1.); a.add_argument("--es",type=float,default=1.); a.add_argument("--rot",type=float,default=1.0); a.add_argument("--wd",type=float,default=0.)
a.add_argument('--mode',default='{}'); a.add_argument('--sched',default=''); o=a.parse_args()
import sys; sys.path.insert(0,'/tmp/trial'); import lines; lines.MODE.update(eval(o.mode))
if o.kinds: D.KINDS=eval(o.kinds)
if o.facts: D.FACTS=eval(o.facts)
if o.var: D.VARIETIES=eval(o.var)
if o.claims: D.CLAIMS=o.claims
D.STORY_WEIGHT=o.story
tok=load_tokenizer("/tmp/tok")
TF=[tok.encode(" true.")[0],tok.encode(" false.")[0]]; NO=tok.encode(" no")[0]
def gen(i0,n):
    out=[]
    i=i0; row=None; used=o.row+1
    while len(out)<n:
        if o.sched:
            fr=len(out)/n
            for f0,m,kk in eval(o.sched):
                if fr>=f0: lines.MODE.update(m); D.KINDS=kk or D.KINDS
        sp=D.document(np.random.default_rng([7,i])); i+=1
        t,w=[],[]
        for text,weight in sp:
            ids=tok.encode(text); t+=ids; w+=[weight]*len(ids)
        t=[*t,tok.eos_id][:o.row]; w=[0,*w[1:],w[-1]][:o.row]
        if used+len(t)>o.row:
            if row is not None: out.append(row)
            row=(np.full(o.row,tok.pad_id,np.int32),np.zeros(o.row,np.int32),np.zeros(o.row,np.float32)); used=0;k=0
        k+=1; row[0][used:used+len(t)]=t; row[1][used:used+len(t)]=k; row[2][used:used+len(t)]=w; used+=len(t)
    return [np.stack(x) for x in zip(*out)]
model=ModelConfig(width=o.width,layers=o.layers,heads=o.heads,positions="rotary",context=256,rotary=RotaryConfig(fraction=o.rot))
mesh=make_mesh(); opt=OptimizerConfig(learning_rate=o.lr,warmup=o.warmup,clip_norm=1.0,beta2=o.b2)
t0=time.time(); T,S,W=gen(0,o.rows*o.steps); print("gen",time.time()-t0,(S>0).mean(),flush=True)
def SC(w):
    def f(path,x):
        n=jax.tree_util.keystr(path)
        if "blocks" not in n and "layers" not in n: return x*o.es if "tokens" in n else x
        return x*o.iscale if x.ndim>2 else x
    return jax.tree_util.tree_map_with_path(f,w)
with jax.set_mesh(mesh):
    specs=transformer.specs(model,tok.vocab_size)
    state=jax.jit(lambda: starting(opt,o.steps,HealthConfig())(SC(params.init(specs,jax.random.key(0)))))()
    def lossk(w,model,p,*tot):
        h=transformer.apply(w,model,p["tokens"][:,:-1],p["segments"][:,:-1])
        lp,_=likelihood.token_logprobs(w,model,h,p["tokens"][:,1:])
        y=p["tokens"][:,1:]; wt=p["weights"][:,1:]
        v=(((y==TF[0])|(y==TF[1]))&(wt==1)); r=(wt==1)&~v
        lp0,_=likelihood.token_logprobs(w,model,h,jnp.full_like(y,TF[0])); lp1,_=likelihood.token_logprobs(w,model,h,jnp.full_like(y,TF[1]))
        z=jnp.where(y==TF[0],1.,-1.)*(lp0-lp1)
        return -jnp.sum(lp*wt)/tot[0], {"v":jnp.sum(jax.nn.softplus(-z)*v)/tot[1],"r":-jnp.sum(lp*r)/tot[2],"n":-jnp.sum(lp*((y==NO)&(wt==1)))/tot[3]}
    @jax.jit
    def step(state,b):
        y=b["tokens"][:,1:]; wt=b["weights"][:,1:]; v=((y==TF[0])|(y==TF[1]))&(wt==1)
        tot=wt.sum(),jnp.maximum(v.sum(),1),jnp.maximum(((wt==1)&~v).sum(),1),jnp.maximum(((wt==1)&(y==NO)).sum(),1)
        (val,m),g=value_and_grad_in_parts(lambda w,p: lossk(w,model,p,*tot),state.params,b,o.rows//o.mb)
        state,t=update(state,val,g); return state,m
    t0=None; V=[];R=[];N=[]
    for i in range(o.steps):
        k=slice(i*o.rows,(i+1)*o.rows)
        b={"tokens":T[k],"segments":S[k],"weights":W[k]}
        state,m=step(state,to_devices(b,mesh)); V.append(float(m["v"])); R.append(float(m["r"])); N.append(float(m["n"]))
        if t0 is None: t0=time.time()
        if (i+1)%o.every==0: print(f"{i+1} {(S[:(i+1)*o.rows]>0).sum()/1e6:.2f}M {time.time()-t0:.0f}s verdict {np.mean(V[-o.every:]):.3f} rest {np.mean(R[-o.every:]):.3f} no {np.mean(N[-o.every:]):.3f}",flush=True)
