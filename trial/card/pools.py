"""Pools of packed rows, each from one lesson; and gate texts. pools.py NAME..."""
import sys, time, numpy as np
from dataclasses import replace
import rlhf_jax.data.mini.documents as D
import rlhf_jax.data.mini.world as W
from rlhf_jax.data.mini.documents import Lesson, COURSE
from rlhf_jax.data.mini.rows import encode, packed_rows
from rlhf_jax.data.tokenizer import load_tokenizer
tok = load_tokenizer(".card/tok")
def single(kinds): return [(k,) for k in kinds]
def mixed(kinds): return [kinds]
BARE = ("subject", "object", "roles", "deed", "denied")
ALL = (*W.CHANGES, "question")
L = lambda k, f, bare=1., posts=0., var=(0.,), ch=None, within=.5: Lesson(k, f, bare=bare, posts=posts, varieties=var, changes=ch or [ALL], within=within)
POOLS = {
 "a1": (L({"check":1.},{1:1.}), single(("object",)), .5, 2e6),
 "a2": (L({"check":.8,"slips":.2},{1:1.}), single(BARE), .5, 3e6),
 "b1": (L({"check":1.},{2:1.}), single(BARE), 1., 4e6),
 "b2": (L({"check":.7,"slips":.3},{2:.6,3:.4}), mixed(BARE), 1., 6e6),
 "c": (L({"check":.6,"slips":.3,"restate":.1},{1:.1,2:.3,3:.3,4:.2,5:.1},bare=.2,var=(0.,0.,.5,1.)), mixed(ALL), .85, 10e6),
 "r": (L({"restate":.6,"answer":.4},{2:.3,3:.4,4:.3}), mixed(ALL), .5, 2e6),
 "u": (L({"check":.25,"slips":.75},{2:.6,3:.4}), mixed(("subject","object","roles","deed")), 1., 2e6),
 "t": (L({"check":.6,"slips":.4},{2:.6,3:.4}), mixed(("subject","object","roles","deed")), 1., 2e6),
}
if __name__ == "__main__":
    for name in sys.argv[1:]:
        lesson, ch, within, n = POOLS[name]; lesson = lesson._replace(changes=ch, within=within); n*=float(__import__("os").environ.get("MUL","1"))
        t = time.time(); rows = []; got = [0]
        def enc(stream=[hash(name) % 1000]):
            i = 0
            while got[0] < n:
                i += 1
                e = encode(D.document(lesson, np.random.default_rng([sum(map(ord, name)), i])), tok)
                got[0] += len(e[0]); yield e
        T, S, X = [], [], []
        for r in packed_rows(enc(), tok.pad_id):
            T.append(r["tokens"].astype(np.uint16)); S.append(r["segments"].astype(np.uint8)); X.append(np.round(r["weights"]*10).astype(np.uint8))
        np.savez_compressed(f".card/pool_{name}.npz", t=np.stack(T), s=np.stack(S), w=np.stack(X))
        print(name, len(T), got[0], (np.stack(S) > 0).mean(), f"{time.time()-t:.0f}s", flush=True)
