import sys,os,numpy as np,time
course,total,chunk=sys.argv[1],int(sys.argv[2]),250
import meaning, rlhf_jax.data.mini.documents as D
from courses import COURSES
from rlhf_jax.data.tokenizer import load_tokenizer
tok=load_tokenizer("/work/bases/c16/small"); D.COURSE=COURSES[course]
os.makedirs(f"/work/run/lab/{course}{total}",exist_ok=True)
for c in range(0,total,chunk):
    f=f"/work/run/lab/{course}{total}/{c//chunk}.npz"
    if os.path.exists(f): continue
    bs=[meaning.batch(tok,0,total,i) for i in range(c,min(c+chunk,total))]
    np.savez(f[:-4]+".tmp.npz",**{k:np.stack([b[k] for b in bs]).astype({"tokens":np.int16,"segments":np.int8,"weights":np.float16,"meaning":np.int8}[k]) for k in bs[0]}); os.rename(f[:-4]+".tmp.npz",f)
