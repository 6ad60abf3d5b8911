# The demo where there is no make, after the README's set-up by hand: bash docs/demo.sh. The Makefile says why the flags are so.
set -e
small="--data data/demo --window 4 --batch 64 --windows-per-half 64 --color 0.2 0.2 0.1 0 --log-every 50"
labelled="--split matches/train.txt --labels matches --classes matches/classes.txt --model vivit_micro --prior 0.015 --mask 0 --head-epochs 0 --steps 450"

python -m comedian.prepare frames --videos matches --out data/demo --size 48 48
python stage1_spatial.py --data data/demo --split matches/pretrain.txt --model vivit_micro --out runs/demo-0/stage1 \
    --steps 600 --batch 128 --lr 2e-3 --momentum 0.95 --negatives batch --head-norm batch --halves-per-batch 4 \
    --crop-scale 0.6 1 --color 0.2 0.2 0.1 0 --log-every 50
python stage3_finetune.py $small $labelled --window 32 --batch 8 --windows-per-half 8 --lr 0.032 --out runs/demo-0/teacher
python infer.py --data data/demo --split matches/pretrain.txt --checkpoint runs/demo-0/teacher/last.pt --features teacher \
    --out runs/demo-0/features
python stage2_distill.py $small --split matches/pretrain.txt --features runs/demo-0/features --features-name teacher \
    --init runs/demo-0/stage1/last.pt --steps 350 --lr 0.064 --out runs/demo-0/stage2
python stage3_finetune.py $small $labelled --init runs/demo-0/stage2/last.pt --lr 0.064 --out runs/demo-0/stage3
python infer.py --data data/demo --split matches/test.txt --labels matches --chance --checkpoint runs/demo-0/stage3/last.pt \
    --out runs/demo-0/test --json runs/demo-0/test/metrics.json
python -m comedian.report page runs/demo-0/test --labels matches --videos matches
python -m comedian.evaluate --predictions runs/demo-0/test --labels matches --classes matches/classes.txt --only-predicted \
    --bootstrap 1000
