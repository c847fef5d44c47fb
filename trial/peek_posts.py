import sys
sys.argv=[sys.argv[0],*sys.argv[1:]]
exec(open("/tmp/peek.py").read().split("G=np.load")[0])
from dataclasses import replace
from rlhf_jax.data.mini.documents import *
from rlhf_jax.data.mini import world
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.pipeline import gates
tok=load_tokenizer(".card/tok"); V=tok.vocab_size; model=pt.model_of(pt.SIZES[size]); N=60
def body(n,kind,variety,bare,pron,frame):
    rng=np.random.default_rng([5,n,KINDS.index(kind)])
    while True:
        if frame:
            post,story=write_post(rng,"valid","",None,{n:1},variety) if 0 else write_post(rng,"valid","")
            said=commented(post)
        else:
            story=world.tell(rng,"valid",{n:1})
            if bare: story=replace(story,facts=tuple(Fact(*f.triple) for f in story.facts))
            w=Writer(rng,pronouns=pron,variety=variety)
            said=" "+" ".join([*w.sentences(story.facts,joined=0.),w.question(story.question)])
        c=claims_of(story,Writer(rng,pronouns=0.,variety=variety),kind)
        if c: yield tuple(f"{said} {x}" for x in c)
kinds=("subject","object","roles","deed","question")
sets={"2 bare plain":(2,0.,True,0.,False),"4 bare plain":(4,0.,True,0.,False),"2 detailed plain":(2,0.,False,0.,False),"2 bare varied":(2,1.,True,0.,False),"2 bare plain pronouns":(2,0.,True,.3,False),"2 detailed varied":(2,1.,False,0.,False),"4 detailed varied":(4,1.,False,0.,False),"posts":(0,1.,False,.3,True)}
with jax.set_mesh(make_mesh()):
    specs={size:transformer.specs(model,V)}
    st=jax.jit(lambda: TrainState.create(pt._start(specs,0),pt.optimizer([size],100)))()
    step=checkpoint.latest_step(folder); p,_=checkpoint.restore(folder,step,*st.parts()); w=p[size]; print(step)
    texts=[]
    for name,(n,v,b,pr,fr) in sets.items():
        for k in kinds:
            g=body(n,k,v,b,pr,fr)
            for _ in range(N): texts+=next(g)
    z=gates.leanings(w,model,tok,texts).reshape(len(sets),len(kinds),N,2)
    for name,a in zip(sets,z): print(f"{name:24}", {k:round(float(((x[:,0]<0).mean()+(x[:,1]>0).mean())/2),2) for k,x in zip(kinds,a)})
