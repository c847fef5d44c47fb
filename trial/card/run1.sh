python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl; export PYTHONPATH=/tmp/site PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
nvidia-smi -L
cd .card
R=.25=e,.45=c,1=d; B=.04=a1,.1=a2,.2=b1,.35=b2,.6=c,1=d; D=.7=a1+a2+b1+b2+c*2+e+d*2,1=d; F=.1=a2,.3=b2,.6=c,1=d*2+c
OUT=$OUT SAVE=small python3 explore.py small 32 190 A:4e-3:$R A2:2e-3:$R B:4e-3:$B B2:2e-3:$B C:4e-3:1=d C2:2e-3:1=d D:4e-3:$D D2:2e-3:$D E:4e-3:.5=c,1=d F:4e-3:$F G:2e-3:.4=b2+c,1=d+c > $OUT/small.log 2>&1 &
OUT=$OUT python3 explore.py large 32 185 A:1.5e-3:$R B:1.5e-3:$B D:1.5e-3:$D > $OUT/large.log 2>&1 &
wait
tail -30 $OUT/*.log
