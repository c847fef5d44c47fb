src=open("/tmp/peek2.py").read()
src=src.replace('sets={"2 bare plain"','''class Only(Writer):
    shares=()
    post=True
    def _otherwise(self,share):
        return share in self.shares and self.rng.random()<(.5 if share==.5 else .5)
def only(shares,where):
    def g(kind):
        rng=np.random.default_rng([5,KINDS.index(kind)])
        A=type("A",(Only,),{"shares":shares if where!="claim" else ()}); B=type("B",(Only,),{"shares":shares if where!="story" else ()})
        while True:
            story=world.tell(rng,"valid",{2:1}); story=replace(story,facts=tuple(Fact(*f.triple) for f in story.facts))
            w=A(rng,pronouns=0.,variety=1.); said=" "+" ".join([*w.sentences(story.facts,joined=0.),"should i date "+story.question.person+"?"])
            c=claims_of(story,B(rng,pronouns=0.,variety=1.),kind)
            if c: yield tuple(f"{said} {x}" for x in c)
    return g
OLD=body
def body(n,k,v,b,pr,fr):
    return n(k) if callable(n) else OLD(n,k,v,b,pr,fr)
sets={**{f"{nm} {wh}":(only(sh,wh),0,0,0,0) for nm,sh in (("synonyms",(.5,)),("passive",(.35,)),("both",(.5,.35))) for wh in ("story","claim","both")},"2 bare plain"''')
exec(src)
