import sys, numpy as np, jax, jax.numpy as jnp
from rlhf_jax.pipeline import pretrain as pt, gates
from rlhf_jax.data.mini.documents import *
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax import inference
from rlhf_jax.mesh import make_mesh
from rlhf_jax.data.mini.world import *
folder,size=sys.argv[1:3]
tok=load_tokenizer(folder); model=pt.model_of(pt.SIZES[size])
from rlhf_jax.run import checkpoint
from rlhf_jax.model import params, transformer
from etils.epath import Path
from rlhf_jax.training.state import starting
from rlhf_jax.config import *
from rlhf_jax.config import HealthConfig
with jax.set_mesh(make_mesh()):
    specs=transformer.specs(model,tok.vocab_size)
    create=starting(OptimizerConfig(learning_rate=1e-3,warmup=100,clip_norm=1.0,beta2=0.95),100,HealthConfig())
    state=jax.jit(lambda: create(params.init(specs,jax.random.key(0))))()
    from rlhf_jax.training.loop import Training
    tr=Training(Config(), Path(folder), "pretrain", SftConfig(), 10**6, ("loss",), inference.describe(model))
    state=tr.resume(state); print("step",int(jax.tree.leaves(state.step)[0]) if hasattr(state,"step") else "")
    def verdictlines(n,kind,bare=True,variety=0.):
        rng=np.random.default_rng(0)
        while True:
            story=world.tell(rng,"valid",{n:1})
            if bare: story=replace(story,facts=tuple(Fact(*f.triple) for f in story.facts))
            w=Writer(rng,pronouns=0.,variety=variety)
            said=" "+" ".join([*w.sentences(story.facts,joined=0.),w.question(story.question)])
            c=claims_of(story,w,kind)
            if c: yield tuple(f"{said} {x}" for x in c)
    for n in (1,2,3):
        r={}
        for kind in ("subject","object","roles","deed","denied","question"):
            g=verdictlines(n,kind); gates_=gates.statements; gates.statements=lambda k,rng: g; K=gates.KINDS; gates.KINDS=(kind,)
            r[kind]=gates.measure(state.params,model,tok,100)[kind]["accuracy"]; gates.statements=gates_; gates.KINDS=K
        print(n,r)
    print("posts",{k:(round(v["accuracy"],2),round(v["auc"],2)) for k,v in gates.measure(state.params,model,tok,100).items()})
