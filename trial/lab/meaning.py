"""Batches with what each clause says, on the token that ends it."""
import numpy as np, re
import rlhf_jax.data.mini.documents as D, rlhf_jax.data.mini.wording as Wd, rlhf_jax.data.mini.posts as Po
from rlhf_jax.data.mini.world import *
from rlhf_jax.data.mini import rows
from rlhf_jax.data.mini.rows import ROWS,ROW_TOKENS,OPEN_ROWS,DOCUMENTS
from itertools import islice
B=0xE000
SAID=[]
MARK=re.compile("[\ue000-\uf8ff]")
SLOTS=("subject","deed","object","place","day","effect","affected","denied","action","person")
V={"subject":NAMES,"object":NAMES,"person":NAMES,"deed":tuple(DEEDS),"place":("",*PLACES),"day":("",*DAYS),"effect":("",*EFFECTS),"action":ACTIONS,"affected":("","subject","object"),"denied":(False,True)}
SIZE=[len(V[s]) for s in SLOTS]
def label(x, effect=True):
    out=[-1]*len(SLOTS)
    if isinstance(x,Question): d={"action":x.action,"person":x.person}
    else:
        d={"subject":x.subject,"deed":x.deed,"object":x.object,"place":x.place,"day":x.day,"denied":x.denied}
        d["effect"]=x.effect if effect else ""
        d["affected"]="" if not d["effect"] else "subject" if x.affected==x.subject else "object"
    for k,v in d.items(): out[SLOTS.index(k)]=V[k].index(v)
    return out
f0,q0=Wd.Writer.fact,Wd.Writer.question
def fact(self,f,effect=True):
    SAID.append(label(f,effect)); return f0(self,f,effect)+chr(B+len(SAID)-1)
def question(self,q):
    SAID.append(label(q)); return q0(self,q)+chr(B+len(SAID)-1)
Wd.Writer.fact=fact; Wd.Writer.question=question
cw=Po.count_words
Po.count_words=lambda t: cw(MARK.sub("",t))
p0=D._put_right
def put(rng,say,true,false):
    return p0(rng,lambda o: MARK.sub("",say(o)),true,false)
D._put_right=put
h0=D._hide
D._hide=lambda said,part,word: h0(MARK.sub("",said),part,word)
def encode(spans,tok):
    t,w,m=[],[],[]
    none=[-1]*len(SLOTS)
    for text,weight in spans:
        parts=re.split("([\ue000-\uf8ff])",text)
        n0=len(t)
        for p in parts:
            if MARK.fullmatch(p):
                if t: m[-1]=SAID[ord(p)-B]
            elif p:
                ids=tok.encode(p); t+=ids; w+=[weight]*len(ids); m+=[none]*len(ids)
        if __debug__ and rows_check: assert t[n0:]==tok.encode(MARK.sub("",text)),(text,t[n0:],tok.encode(MARK.sub("",text)))
    return [*t,tok.eos_id][:ROW_TOKENS],[*w,w[-1]][:ROW_TOKENS],[*m,none][:ROW_TOKENS]
rows_check=True
def docs(seed,a,b,total):
    for i in range(a,b):
        SAID.clear()
        yield next(D.documents(seed,i,i+1,total))
def packed(encoded,pad):
    open_rows=[]
    for t,w,m in encoded:
        row=next((o for o in open_rows if len(o["tokens"])+len(t)<=ROW_TOKENS),None)
        if row is None:
            if len(open_rows)==OPEN_ROWS:
                f=max(open_rows,key=lambda o:len(o["tokens"])); open_rows.remove(f); yield closed(f,pad)
            row={"tokens":[],"segments":[0],"weights":[],"meaning":[]}; open_rows.append(row)
        row["segments"]+=[row["segments"][-1]+1]*len(t); row["tokens"]+=t; row["weights"]+=[0.,*w[1:]]; row["meaning"]+=m
def closed(r,pad):
    n=ROW_TOKENS-len(r["tokens"])
    return {"tokens":np.array(r["tokens"]+[pad]*n,np.int32),"segments":np.array(r["segments"][1:]+[0]*n,np.int32),"weights":np.array(r["weights"]+[0.]*n,np.float32),"meaning":np.array(r["meaning"]+[[-1]*len(SLOTS)]*n,np.int8)}
def batch(tok,seed,updates,i):
    d=docs(seed,i*DOCUMENTS,(i+1)*DOCUMENTS,updates*DOCUMENTS)
    rs=list(islice(packed((encode(x,tok) for x in d),tok.pad_id),ROWS))
    return {k:np.stack([r[k] for r in rs]) for k in rs[0]}
CUR=[None]
TRUTHS={}
fact1,question1=fact,question
def fact(self,f,effect=True):
    r=fact1(self,f,effect)
    if CUR[0]: TRUTHS[len(SAID)-1]=CUR[0]
    return r
def question(self,q):
    r=question1(self,q)
    if CUR[0]: TRUTHS[len(SAID)-1]=CUR[0]
    return r
Wd.Writer.fact=fact; Wd.Writer.question=question
c0=D.claims_of
d0=D.draw_claim
def draw(story,rng,kind,within=.5):
    r=d0(story,rng,kind,within)
    if r:
        f=story.find(r[0].triple)
        if f is None: f=r[0]
        CUR[0]=label(f)
    return r
def claims(story,writer,kind,within=.5):
    D.draw_claim=draw
    CUR[0]=label(story.question) if kind=="question" else None
    r=c0(story,writer,kind,within); CUR[0]=None
    D.draw_claim=d0
    return r
D.claims_of=claims
_docs=docs
def docs(*x):
    for d in _docs(*x): yield d
e0=encode
def encode(spans,tok):
    t,w,m,v=[],[],[],[]
    none=[-1]*len(SLOTS)
    for text,weight in spans:
        for p in re.split("([\ue000-\uf8ff])",text):
            if MARK.fullmatch(p):
                if t: m[-1]=SAID[ord(p)-B]; v[-1]=TRUTHS.get(ord(p)-B,none)
            elif p:
                ids=tok.encode(p); t+=ids; w+=[weight]*len(ids); m+=[none]*len(ids); v+=[none]*len(ids)
    m=[a+b for a,b in zip(m,v)]
    TRUTHS.clear()
    return [*t,tok.eos_id][:ROW_TOKENS],[*w,w[-1]][:ROW_TOKENS],[*m,none+none][:ROW_TOKENS]
def closed(r,pad):
    n=ROW_TOKENS-len(r["tokens"])
    return {"tokens":np.array(r["tokens"]+[pad]*n,np.int32),"segments":np.array(r["segments"][1:]+[0]*n,np.int32),"weights":np.array(r["weights"]+[0.]*n,np.float32),"meaning":np.array(r["meaning"]+[[-1]*2*len(SLOTS)]*n,np.int8)}
