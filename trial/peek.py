import sys,numpy as np,jax,jax.numpy as jnp
from rlhf_jax.pipeline import pretrain as pt
from rlhf_jax.model import transformer,params
from rlhf_jax.mesh import make_mesh
from rlhf_jax.run import checkpoint
from rlhf_jax.training.state import TrainState
from etils.epath import Path
folder=Path(sys.argv[1]); size=sys.argv[2]
G=np.load(".card/gates.npz"); V=int(G["vocab"]); PAD=int(G["pad"]); VERD=[int(x) for x in G["verdicts"]]
model=pt.model_of(pt.SIZES[size])
with jax.set_mesh(make_mesh()):
    specs={size:transformer.specs(model,V)}
    st=jax.jit(lambda: TrainState.create(pt._start(specs,0),pt.optimizer([size],100)))()
    step=checkpoint.latest_step(folder); p,_=checkpoint.restore(folder,step,*st.parts()); w=p[size]
    f=jax.jit(lambda t,l: transformer.logits(w,model,transformer.apply_at(w,model,t,transformer.valid_segments(t,PAD),l[:,None]))[:,0])
    t=G["tokens"].astype(np.int32); l=G["last"]; z=np.concatenate([np.asarray(f(t[i:i+300],l[i:i+300])) for i in range(0,len(t),300)])
z=z[:,VERD[1]]-z[:,VERD[0]]; n=int(G["n"]); z=z.reshape(len(G["names"]),n,2)
print(step,{str(k):(round(float(((a[:,0]<0).mean()+(a[:,1]>0).mean())/2),2),round(float((a[:,1][:,None]>a[:,0][None]).mean()),2)) for k,a in zip(G["names"],z)})
