python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl; export PYTHONPATH=/tmp/site PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
cd .card
SECS=165; S1=1=t+r; S4=.3=r,1=t+r; S3=.1=a1+r,.25=a2+r,1=t+r
go() { python3 explore.py $1 16 $SECS a:2e-3:$S1:0 b:5e-3:$S1:0 c:2e-3:$S3:0 d:5e-3:$S3:0 e:2e-3:$S1:1 f:5e-3:$S1:1 g:5e-3:$S3:1 h:5e-3:$S4:1 > $OUT/$2.log 2>&1; }
EXIT=2 go 72x3 base &
LAYERS=8 EXIT=4 go 52x2 deep &
EXIT=2 go 72x1 head &
POS=learned EXIT=2 go 72x3 learned &
ROT=.25 EXIT=2 go 72x3 rot &
wait
