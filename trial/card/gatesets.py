import numpy as np
from dataclasses import replace
from rlhf_jax.pipeline import gates
from rlhf_jax.data.mini.documents import *
from rlhf_jax.data.mini.world import *
from rlhf_jax.data.tokenizer import load_tokenizer
tok=load_tokenizer(".card/tok")
N=150
def short(n,kind):
    rng=np.random.default_rng([5,n,KINDS.index(kind)])
    while True:
        story=world.tell(rng,"valid",{n:1})
        story=replace(story,facts=tuple(Fact(*f.triple) for f in story.facts))
        w=Writer(rng,pronouns=0.,variety=0.)
        said=" "+" ".join([*w.sentences(story.facts,joined=0.),w.question(story.question)])
        c=claims_of(story,w,kind)
        if c: yield tuple(f"{said} {x}" for x in c)
sets={}
for n in (1,2,3):
    for k in ("subject","object","roles","deed","denied"): sets[f"{n}:{k}"]=short(n,k)
for k in KINDS: sets[f"post:{k}"]=gates.statements(k,np.random.default_rng([0,KINDS.index(k)]))
names=list(sets); rows=[]
for n in names:
    for _ in range(N):
        for t in next(sets[n]):
            ids=tok.encode(t); rows.append(ids)
L=max(map(len,rows)); print(L)
A=np.full((len(rows),L),tok.pad_id,np.uint16); last=[]
for a,r in zip(A,rows): a[:len(r)]=r; last.append(len(r)-1)
np.savez_compressed(".card/gates.npz",names=names,tokens=A,last=np.array(last),verdicts=[tok.encode(" true.")[0],tok.encode(" false.")[0]],no=tok.encode(" no")[0],pad=tok.pad_id,vocab=tok.vocab_size,n=N)
