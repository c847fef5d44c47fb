"""lab.py name --gated ... : trains one small model on cached batches of a course, tells what it reads."""
import sys,time,argparse,os,pickle
import numpy as np, jax, jax.numpy as jnp
from dataclasses import replace
import rlhf_jax.data.mini.documents as D
from rlhf_jax.data.mini import rows, world
from rlhf_jax.data.mini.wording import Writer
from rlhf_jax.data.mini.world import Fact
from rlhf_jax.config import *
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.mesh import make_mesh,to_devices
from rlhf_jax.model import params,transformer,likelihood
from rlhf_jax.pipeline import gates
from rlhf_jax.training.state import TrainState,make_optimizer,update,value_and_grad_in_parts
a=argparse.ArgumentParser()
a.add_argument("--course",default="first"); a.add_argument("--updates",type=int,default=2000); a.add_argument("--total",type=int,default=0)
a.add_argument("--lr",type=float,default=5e-3); a.add_argument("--width",type=int,default=52); a.add_argument("--layers",type=int,default=8); a.add_argument("--heads",type=int,default=2)
a.add_argument("--gated",type=int,default=0); a.add_argument("--act",default="silu"); a.add_argument("--ff",type=int,default=0); a.add_argument("--norm",default="layer"); a.add_argument("--bias",type=int,default=1); a.add_argument("--parts",type=int,default=2); a.add_argument("--seed",type=int,default=0)
a.add_argument("--mb",type=int,default=4); a.add_argument("--b2",type=float,default=.95); a.add_argument("--every",type=int,default=500); a.add_argument("--story",type=float,default=-1.); a.add_argument("--head",type=int,default=0); a.add_argument("--vocab",type=int,default=0); a.add_argument("--std",type=float,default=1.); a.add_argument("--sched",default="cosine")
a.add_argument("--mim",type=float,default=0.); a.add_argument("--mimheads",default="all"); a.add_argument("--theta",type=float,default=10000.); a.add_argument("--prev",type=float,default=0.)
a.add_argument("--mean",type=float,default=0.); a.add_argument("--tw",type=float,default=1.); a.add_argument("--mimfrom",type=int,default=0); a.add_argument("--flip",type=int,default=0); a.add_argument("--name",default=""); a.add_argument("--same",type=float,default=0.); a.add_argument("--ps",type=int,default=-1); a.add_argument("--graft",default=""); a.add_argument("--pm",type=int,default=1); a.add_argument("--pf",type=int,default=2); a.add_argument("--mlayer",type=int,default=0)
o=a.parse_args()
import meaning; o.total=o.total or o.updates
TOK="/work/bases/c16/small"
tok=load_tokenizer(TOK); TF=[tok.encode(" true.")[0],tok.encode(" false.")[0]]; VV=[]
meaning.Wd.Writer.fact=meaning.f0; meaning.Wd.Writer.question=meaning.q0; D.claims_of=meaning.c0; D.draw_claim=meaning.d0
Z={}
def data(i):
    c=i//250
    f=f"/work/run/lab/{o.course}{o.total}/{c}.npz"
    if Z.get("c")!=c:
        while not os.path.exists(f): time.sleep(1)
        z=np.load(f); Z.update({k:z[k] for k in z}); Z["c"]=c
    j=i%250
    return {"tokens":Z["tokens"][j].astype(np.int32),"segments":Z["segments"][j].astype(np.int32),"weights":Z["weights"][j].astype(np.float32)}|({"meaning":Z["meaning"][j]} if o.mean else {})
model=ModelConfig(width=o.width,layers=o.layers,heads=o.heads,head_size=o.head,positions="rotary",context=128,init_std=o.std*o.width**-.5,gated=bool(o.gated),activation=o.act if o.gated else "gelu_tanh",ff=o.ff or (o.width*8//3 if o.gated else 0),norm=o.norm,attention_bias=bool(o.bias),mlp_bias=bool(o.bias))
# what is asked: two bare facts, plain and varied; posts
def few(kind,variety,n=2):
    rng=np.random.default_rng([5,D.KINDS.index(kind)])
    while True:
        story=world.tell(rng,"valid",{n:1}); story=replace(story,facts=tuple(Fact(*f.triple) for f in story.facts))
        w=Writer(rng,pronouns=0.,variety=variety); said=" "+" ".join([*w.sentences(story.facts,joined=0.),"should i date "+story.question.person+"?"])
        c=D.claims_of(story,Writer(rng,pronouns=0.,variety=variety),kind,1.0)
        if c: yield tuple(f"{said} {x}" for x in c)
from itertools import islice
BARE=("subject","object","roles","deed","denied")
SETS={"plain":[t for k in BARE for p in islice(few(k,0.),100) for t in p],"varied":[t for k in BARE for p in islice(few(k,1.),100) for t in p]}
KS=D.KINDS
POSTS=[t for i,k in enumerate(KS) for p in islice(gates.statements(k,np.random.default_rng([0,i])),100) for t in p]
FOUR=[t for k in BARE for p in islice(few(k,1.,4),100) for t in p]
SETS["four"]=FOUR
mesh=make_mesh()
with jax.set_mesh(mesh):
    specs=transformer.specs(model,tok.vocab_size)
    print(params.count(specs),vars(o),flush=True)
    def start():
        w=params.init(specs,jax.random.key(o.seed)); at=w["layers"]["attention"]
        if o.mim:
            q=at["query"][:,:,:,0]  # L D H K
            mask={"all":jnp.ones(q.shape[2]),"half":(jnp.arange(q.shape[2])%2==0)*1.}[o.mimheads][:,None]
            up=(jnp.arange(o.layers)>=o.mimfrom)[:,None,None,None]*mask
            K=q.shape[-1]; half=K//2
            sign=jnp.ones(K)
            if o.flip: # pairs that turn within a text are negative, so that a token does not find itself
                one=jnp.where(jnp.arange(half)<o.flip,-((half-o.flip)/o.flip),1.); sign=jnp.concatenate([one,one])
            at["key"]=up*q*o.mim*sign+(1-up)*at["key"]
        if o.prev:  # odd heads look at the token before, by rotary biases
            H,K=at["key"].shape[2:]; half=K//2
            f=o.theta**(-jnp.arange(half)/half); first=(jnp.arange(half)<4)*1.
            qb=jnp.concatenate([first*jnp.cos(f),-first*jnp.sin(f)])*o.prev; kb=jnp.concatenate([first,jnp.zeros(half)])*o.prev
            odd=(jnp.arange(H)%2==1)*1.
            at["key_bias"]=at["key_bias"]+odd[None,:,None,None]*kb
            at["query_bias"]=at["query_bias"]+odd[None,:,None,None,None]*qb
        if o.mean:
            n=sum(meaning.SIZE); return {"w":w,"m":{"kernel":jnp.zeros((o.width,n)),"bias":jnp.zeros(n),"kernel2":jnp.zeros((o.width,n)),"bias2":jnp.zeros(n)}|({"kernel3":jnp.zeros((o.width,len(meaning.SIZE))),"bias3":jnp.zeros(len(meaning.SIZE))} if o.same else {})}
        return w
    state=jax.jit(lambda: TrainState.create(start(),make_optimizer(OptimizerConfig(learning_rate=o.lr,warmup=100,clip_norm=1.,beta2=o.b2,schedule=o.sched),o.total or o.updates)))()
    def loss(w,p,tot,n,mt,sm):
        if o.mean: w,meanings=w["w"],w["m"]
        t,s,wt=p["tokens"],p["segments"][:,:-1],p["weights"][:,1:]
        h=transformer.apply_in_parts(w,model,t[:,:-1],s,parts=o.parts) if o.parts>1 else [transformer.apply(w,model,t[:,:-1],s)]
        lps=[likelihood.token_logprobs(w,model,x,t[:,1:])[0] for x in (h[len(h)//2-1],h[-1])]
        value=-jnp.sum(sum(lps)*wt)/tot
        y=t[:,1:]; v=((y==TF[0])|(y==TF[1]))&(wt==1)
        z=transformer.logits(w,model,jax.lax.stop_gradient(h[-1])); d=z[...,TF[0]]-z[...,TF[1]]
        told={"rest":-jnp.sum(lps[-1]*(wt==1))/n,"right":jnp.sum(v*((d>0)==(y==TF[0]))),"v":jnp.sum(v)}
        if o.mean:
            m=p["meaning"][:,:-1].astype(jnp.int32); lg=jnp.concatenate([h[o.pm]@meanings["kernel"]+meanings["bias"],h[o.pf]@meanings["kernel2"]+meanings["bias2"]],-1); at=0; right=[]
            for i,size in enumerate(meaning.SIZE*2):
                lp=jax.nn.log_softmax(lg[...,at:at+size]); at+=size; on=m[...,i]>=0
                ce=-jnp.sum(jnp.where(on,jnp.take_along_axis(lp,jnp.maximum(m[...,i],0)[...,None],-1)[...,0],0.))
                value=value+o.mean*(o.tw if i>=len(meaning.SIZE) else 1.)*ce/mt[i]/len(meaning.SIZE); right.append(ce/mt[i])
            if o.same:
                n=len(meaning.SIZE); claimed,truth=m[...,:n],m[...,n:]
                on=(claimed>=0)&(truth>=0)&~((claimed==0)&jnp.array([s in ("place","day","effect","affected") for s in meaning.SLOTS]))
                wrong=on&(claimed!=truth); z=h[o.ps]@meanings["kernel3"]+meanings["bias3"]
                bce=jnp.where(wrong,jax.nn.softplus(-z),0.)/sm[0]+jnp.where(on&~wrong,jax.nn.softplus(z),0.)/sm[1]
                value=value+o.same*jnp.sum(bce)/2/n
                right+=list(jnp.sum(jnp.where(wrong,z>0,False)/sm[0]+jnp.where(on&~wrong,z<0,False)/sm[1],(0,1))/2)
            told["mean"]=jnp.stack(right)
        return value, told
    @jax.jit
    def step(state,b):
        sm=None
        if o.same:
            n=len(meaning.SIZE); claimed,truth=b["meaning"][:,:-1,:n],b["meaning"][:,:-1,n:]
            on=(claimed>=0)&(truth>=0)&~((claimed==0)&jnp.array([s in ("place","day","effect","affected") for s in meaning.SLOTS]))
            wrong=on&(claimed!=truth); sm=jnp.maximum(wrong.sum((0,1)),1),jnp.maximum((on&~wrong).sum((0,1)),1)
        mt=jnp.maximum((b["meaning"]>=0).sum((0,1)),1) if o.mean else None
        (v,m),g=value_and_grad_in_parts(lambda w,p: loss(w,p,b["weights"].sum(),(b["weights"]==1).sum(),mt,sm),state.params,b,16//o.mb)
        state,_=update(state,v,g); return state,m
    def tell(w):
        out=[]
        for n,texts in SETS.items():
            l=gates.leanings(w,model,tok,texts).reshape(len(BARE),-1,2)
            out.append(n+" "+" ".join(f"{k} {100*gates.told_apart(*x.T)['accuracy']:.0f}" for k,x in zip(BARE,l)))
        l=gates.leanings(w,model,tok,POSTS).reshape(len(KS),-1,2)
        out.append("POSTS "+" ".join(f"{k} {100*gates.told_apart(*x.T)['accuracy']:.0f}" for k,x in zip(KS,l)))
        return "; ".join(out)
    t0=None; L=[]; CK=f"/work/run/lab/{o.name}.ckpt"
    start_at=0
    if o.graft and not os.path.exists(CK):
        start_at,flat,L,VV=pickle.load(open(o.graft,"rb"))
        ps=[(jax.tree_util.keystr(p),x) for p,x in jax.tree_util.tree_flatten_with_path(state)[0]]
        old=[p for p,_ in ps if "kernel3" not in p and "bias3" not in p]; assert len(old)==len(flat),(len(old),len(flat))
        old=dict(zip(old,flat)); state=jax.tree.unflatten(jax.tree.structure(state),[jax.device_put(old[p],x.sharding) if p in old else x for p,x in ps])
    if o.name and os.path.exists(CK):
        start_at,flat,L,VV=pickle.load(open(CK,"rb")); state=jax.tree.unflatten(jax.tree.structure(state),[jax.device_put(x,y.sharding) for x,y in zip(flat,jax.tree.leaves(state))])
    for i in range(start_at,o.updates):
        b=data(i)
        state,m=step(state,to_devices(b,mesh)); L.append(float(m["rest"])); VV.append((float(m["right"]),float(m["v"]))); MM=np.round(np.array(m["mean"]),2) if o.mean else ""
        if t0 is None: t0=time.time()
        if (i+1)%o.every==0: print(f"{i+1} {time.time()-t0:.0f}s loss {np.mean(L[-100:]):.3f} verdicts {100*np.divide(*np.sum(VV[-50:],0)):.1f} | {tell(state.params['w'] if o.mean else state.params)} {MM}",flush=True)
        if o.name and (i+1)%o.every==0: pickle.dump((i+1,[np.asarray(x) for x in jax.tree.leaves(state)],L,VV),open(CK+'.tmp','wb')); os.rename(CK+'.tmp',CK)
