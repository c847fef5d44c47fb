from rlhf_jax.data.mini.documents import *
COURSES={"first":((.22,(OBJECTS,RECALL)),(.5,(ONE_FACT,RECALL)),(1.,(FEW_FACTS._replace(changes=[(*PARTS,"denied")]),RECALL)))}
ONE_V=ONE_FACT._replace(varieties=(0.,.5,1.),kinds={"check":1.})
NOQ=(*PARTS,"denied")
FEW_V=FEW_FACTS._replace(varieties=(0.,.5,1.),kinds={"check":.8,"slips":.2})
DET=DETAILS._replace(kinds={"check":.8,"slips":.1,"restate":.1})
PO=POSTS._replace(kinds={"check":.6,"slips":.1,"tldr":.12,"restate":.08,"answer":.04,"issue":.03,"thread":.03})
SHORT=PO._replace(facts={1:.3,2:.4,3:.3})
COURSES["fast"]=((.05,(OBJECTS,RECALL)),(.12,(ONE_FACT,ONE_FACT,RECALL)),(.2,(ONE_V,FEW_FACTS,FEW_V,RECALL)),(.35,(FEW_V,DET,RECALL_VARIED)),(.55,(SHORT,DET,FEW_V)),(1.,(PO,PO,SHORT,DET)))
