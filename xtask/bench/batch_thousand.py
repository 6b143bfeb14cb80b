#!/usr/bin/env python3
"""1,000 prompts by `longcat batch` and the built-in miniature on the CPU, killed at random, by two processes.

    xtask/bench/batch_thousand.py target/release/longcat [LINES]

The list is made once by one process that nobody disturbs, and once by two processes at the same time, of which
one is killed (SIGKILL) three times, at random, and started again. Then every video has to be the same file as the
undisturbed one, some the same as that of `longcat t2v`, and each to be in results.jsonl once. Prints the seconds.
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


SETTINGS = {"frames": 5, "steps": 2, "guidance": 1}


def request(i):
    shape, colour = SHAPES[i % 5], COLOURS[i // 5 % 5]
    keys = {"prompt": f"a {colour} {shape} moves right", "seed": i, "size": SIZES[i % 3]}
    # Adapters are switched between lines.
    return keys | ({"distill": True} if i % 50 == 0 else {})


def start(program, folder, output, log):
    command = [program, "batch", "list.jsonl", "-o", output, "--device", "cpu", "--claim=30"]
    for key, value in SETTINGS.items():
        command += ["--set", f"{key}={value}"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=log)


def videos(folder):
    return sorted(path.name for path in folder.glob("*.mp4"))


def single(program, folder, number):
    options = SETTINGS | request(number - 1)
    command = [program, "t2v", options.pop("prompt"), "-o", "single.mp4", "-y", "--device", "cpu"]
    for key, value in options.items():
        command += [f"--{key}"] if value is True else [f"--{key}={value}"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "single.mp4"


def main():
    program = str(pathlib.Path(sys.argv[1]).resolve())
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    seed = random.randrange(1 << 32)
    draw = random.Random(seed)
    print(f"kills are those of seed {seed}")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "list.jsonl").write_text("".join(json.dumps(request(i)) + "\n" for i in range(count)))
        with open(folder / "log", "w") as log:
            began = time.monotonic()
            alone = start(program, folder, "alone", log)
            assert alone.wait() == 0, (folder / "log").read_text()
            whole = time.monotonic() - began
            print(f"one process: {count} videos in {whole:.0f} s")

            began = time.monotonic()
            running = [start(program, folder, "shared", log) for _ in range(2)]
            for at in sorted(draw.sample(range(count // 20, count * 9 // 10), 3)):
                while len(videos(folder / "shared")) < at:
                    time.sleep(0.005)
                # Within a video, between it and its record, or between two.
                time.sleep(draw.uniform(0, 0.2))
                index = draw.randrange(2)
                running[index].send_signal(signal.SIGKILL)
                running[index].wait()
                print(f"killed process {index} at {len(videos(folder / 'shared'))} videos")
                running[index] = start(program, folder, "shared", log)
            codes = [process.wait() for process in running]
            shared = time.monotonic() - began
            print(f"two processes with three kills: {shared:.0f} s, exit codes {codes}")
            assert codes == [0, 0], (folder / "log").read_text()

        names = [f"{number:05}.mp4" for number in range(1, count + 1)]
        assert videos(folder / "shared") == names
        same, other, missing = filecmp.cmpfiles(folder / "alone", folder / "shared", names, shallow=False)
        assert not other and not missing, (other, missing)
        for number in draw.sample(range(1, count + 1), 5):
            made = folder / "shared" / names[number - 1]
            assert filecmp.cmp(single(program, folder, number), made, shallow=False), made
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
