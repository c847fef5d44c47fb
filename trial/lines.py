import numpy as np
import rlhf_jax.data.mini.documents as D
from rlhf_jax.data.mini import world
from rlhf_jax.data.mini.world import *
from rlhf_jax.data.mini.wording import Writer
MODE={"n":(1,2),"bare":True,"claims":8,"names":24}
def lines(rng):
    n=pick_weighted(rng,MODE.get("ns",{1:.5,2:.3,3:.2}))
    s=world.tell(rng,"train",{n:1})
    facts=s.facts
    if MODE["bare"]: facts=tuple(Fact(*f.triple) for f in facts)
    s=world.Story(facts,s.question)
    w=Writer(rng,pronouns=0.,variety=0.)
    sp=[("".join(f" {w.fact(f)}." for f in facts),D.STORY_WEIGHT)]
    for _ in range(MODE["claims"]):
        f=pick(rng,facts); kind=pick(rng,MODE.get("kinds",("subject","object","deed","roles")))
        false=falsify(s,f,kind,rng)
        bad=rng.random()<.5 and false is not None
        sp+=[(" "+w.fact(false if bad else f),D.STORY_WEIGHT),(" false." if bad else " true.",1.)]
    return sp
old=D.document
def document(rng):
    if rng.random()<MODE.get("share",1.0): return lines(rng)
    return old(rng)
D.document=document
def lineslips(rng):
    n=pick_weighted(rng,MODE.get("ns",{1:.5,2:.3,3:.2}))
    s=world.tell(rng,"train",{n:1}); facts=s.facts
    if MODE["bare"]: facts=tuple(Fact(*f.triple) for f in facts)
    s=world.Story(facts,s.question); w=Writer(rng,pronouns=0.,variety=MODE.get("variety",0.))
    head="".join(f" {w.fact(f)}." for f in facts); out=[]
    for _ in range(MODE["claims"]):
        f=pick(rng,facts); kind=pick(rng,MODE.get("kinds",("subject","object","deed","place","day","effect"))); g=falsify(s,f,kind,rng)
        out.append(D._put_right(rng,lambda one: f" {w.fact(one)}.",f,g) if g is not None else f" {w.fact(f)}.")
    return [(head,D.STORY_WEIGHT),("".join(out),1.0)]
def document(rng):
    x=rng.random()
    if x<MODE.get("share",1.0): return lineslips(rng) if rng.random()<MODE.get("slip",0.) else lines(rng)
    return old(rng)
D.document=document
import rlhf_jax.data.mini.world as WW
_old_changed=WW._changed
def _changed(story,fact,kind,within,rng):
    return _old_changed(story,fact,kind,True if MODE.get("within") else within,rng)
WW._changed=_changed
def copyd(rng):
    n=pick_weighted(rng,MODE.get("cns",{3:.5,4:.5})); s=world.tell(rng,"train",{n:1}); facts=[Fact(*f.triple) for f in s.facts]
    w=Writer(rng,pronouns=0.,variety=0.); head="".join(f" {w.fact(f)}." for f in facts); out=""
    for _ in range(3): out+="".join(f" {w.fact(facts[i])}." for i in rng.permutation(n))
    return [(head,D.STORY_WEIGHT),(out,MODE.get("cw",1.0))]
def document(rng):
    if rng.random()<MODE.get("copy",0.): return copyd(rng)
    return lineslips(rng) if rng.random()<MODE.get("slip",0.) else lines(rng)
D.document=document
def lines1(rng):
    n=pick_weighted(rng,MODE.get("ns",{1:.5,2:.3,3:.2}))
    s=world.tell(rng,"train",{n:1}); facts=s.facts
    if MODE["bare"]: facts=tuple(Fact(*f.triple) for f in facts)
    s=world.Story(facts,s.question); w=Writer(rng,pronouns=0.,variety=0.)
    sp=[("".join(f" {w.fact(f)}." for f in facts),D.STORY_WEIGHT)]
    for i in rng.permutation(n):
        f=facts[i]; kind=pick(rng,MODE.get("kinds",("subject","object","deed","roles"))); false=falsify(s,f,kind,rng)
        bad=rng.random()<.5 and false is not None
        sp+=[(" "+w.fact(false if bad else f),D.STORY_WEIGHT),(" false." if bad else " true.",1.)]
    return sp
def document(rng):
    if rng.random()<MODE.get("copy",0.): return copyd(rng)
    return lineslips(rng) if rng.random()<MODE.get("slip",0.) else lines1(rng)
D.document=document
def lines2(rng):
    n=pick_weighted(rng,MODE.get("ns",{1:.5,2:.3,3:.2}))
    s=world.tell(rng,"train",{n:1}); facts=[Fact(*f.triple) for f in s.facts]
    days=some(rng,DAYS,n)
    if MODE.get("day"): facts=[replace(f,day=d) for f,d in zip(facts,days)]
    s=world.Story(tuple(facts),s.question); w=Writer(rng,pronouns=0.,variety=0.)
    sp=[("".join(f" {w.fact(f)}." for f in facts),D.STORY_WEIGHT)]
    for i in rng.permutation(n):
        f=facts[i]; kind=pick(rng,MODE.get("kinds",("subject","object","deed","roles"))); false=falsify(s,f,kind,rng)
        bad=rng.random()<.5 and false is not None
        g=false if bad else f
        sp+=[(" "+w.fact(g)+(f" {g.deed}" if MODE.get("echo") else ""),D.STORY_WEIGHT),(" false." if bad else " true.",1.)]
    return sp
def document(rng):
    if rng.random()<MODE.get("copy",0.): return copyd(rng)
    return lines2(rng)
D.document=document
def document(rng):
    if rng.random()<MODE.get("copy",0.): return copyd(rng)
    return lines1(rng) if MODE.get("one") else lines(rng)
D.document=document
