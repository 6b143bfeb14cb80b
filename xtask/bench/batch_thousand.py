#!/usr/bin/env python3
"""1,000 prompts by `longcat batch` and the built-in miniature on the CPU, killed at random, by two processes.

    xtask/bench/batch_thousand.py target/release/longcat [LINES]

The list is made once by one process that nobody disturbs, and once by two processes at the same time, three
times one of which is killed (SIGKILL) after a random time and started again. Then every video has to be the
same file as the undisturbed one, and to be in results.jsonl once. Prints the seconds of both.
"""

import collections
import filecmp
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

SHAPES = ["circle", "square", "triangle", "star", "ring"]
COLOURS = ["red", "green", "blue", "yellow", "white"]
SIZES = ["16x16", "32x16", "16x32"]


def write_list(path, count):
    with open(path, "w") as file:
        for i in range(count):
            shape, colour = SHAPES[i % 5], COLOURS[i // 5 % 5]
            line = {"prompt": f"a {colour} {shape} moves right", "seed": i, "size": SIZES[i % 3]}
            if i % 50 == 0:
                line["distill"] = True
            file.write(json.dumps(line) + "\n")


def start(program, folder, output, log):
    settings = ["frames=5", "steps=2", "guidance=1"]
    command = [program, "batch", "list.jsonl", "-o", output, "--device", "cpu", "--claim=30"]
    for setting in settings:
        command += ["--set", setting]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=log)


def videos(folder):
    return sorted(path.name for path in folder.glob("*.mp4"))


def main():
    program = str(pathlib.Path(sys.argv[1]).resolve())
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    seed = random.randrange(1 << 32)
    draw = random.Random(seed)
    print(f"kills are those of seed {seed}")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_list(folder / "list.jsonl", count)
        with open(folder / "log", "w") as log:
            began = time.monotonic()
            alone = start(program, folder, "alone", log)
            assert alone.wait() == 0, (folder / "log").read_text()
            whole = time.monotonic() - began
            print(f"one process: {count} videos in {whole:.0f} s")

            began = time.monotonic()
            running = [start(program, folder, "shared", log) for _ in range(2)]
            for kill in range(3):
                # Within the time that what is left takes.
                time.sleep(draw.uniform(0.05, 0.25) * whole)
                index = draw.randrange(2)
                ended = running[index].poll()
                there = len(videos(folder / "shared"))
                running[index].send_signal(signal.SIGKILL)
                running[index].wait()
                print(f"kill {kill + 1}: of process {index}, at {there} videos{'' if ended is None else ', ended'}")
                running[index] = start(program, folder, "shared", log)
            codes = [process.wait() for process in running]
            shared = time.monotonic() - began
            print(f"two processes with three kills: {shared:.0f} s, exit codes {codes}")
            assert codes == [0, 0], (folder / "log").read_text()

        names = [f"{number:05}.mp4" for number in range(1, count + 1)]
        assert videos(folder / "shared") == names
        same, other, missing = filecmp.cmpfiles(folder / "alone", folder / "shared", names, shallow=False)
        assert not other and not missing, (other, missing)
        told, torn = collections.Counter(), 0
        for line in (folder / "shared/results.jsonl").read_text().splitlines():
            try:
                told[json.loads(line)["output"]] += 1
            except ValueError:
                torn += 1
        assert dict(told) == dict.fromkeys(names, 1), told - collections.Counter(names)
        left = [path.name for path in (folder / "shared").iterdir() if path.suffix != ".mp4"]
        print(f"{len(same)} videos are right, each once in the results; {torn} torn lines; beside them: {left}")


if __name__ == "__main__":
    main()
