"""An external plugin for ms-swift: sentence BLEU as the reward, and when each round of rollouts begins."""

import os
import time

import sacrebleu
from swift.rewards import ORM, orms
from swift.rlhf_trainers import GRPOTrainer
from swift.trainers import TrainerFactory


class SentenceBleu(ORM):
    def __call__(self, completions, solution, **_):
        pairs = zip(completions, solution, strict=True)
        return [sacrebleu.sentence_bleu(text, [reference]).score / 100 for text, reference in pairs]


class Timed(GRPOTrainer):
    def _generate_and_score_completions(self, inputs):
        with open(os.environ["ROUNDS"], "a", encoding="utf-8") as file:
            file.write(f"{time.time()}\n")
        return super()._generate_and_score_completions(inputs)


orms["sentence_bleu"] = SentenceBleu
TrainerFactory.TRAINER_MAPPING["grpo"] = f"{__name__}.Timed"
