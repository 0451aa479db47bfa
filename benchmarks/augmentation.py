"""Images a second of crop, flip and conversion, and what a CIFAR-sized set costs on the device.

    python benchmarks/augmentation.py --device cpu --threads 2

Prints ratios and rates of this machine; nothing is asserted.
"""

import argparse
import resource
import statistics
import time

import torch

from compressor.data.augment import chosen
from compressor.data.split import Held, Split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=32, help="height and width in pixels")
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--seconds", type=float, default=3.0, help="measuring time of each batch size")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)

    shape = (arguments.images, arguments.size, arguments.size, arguments.channels)
    before = _peak_bytes(device)
    images = torch.randint(0, 256, shape, dtype=torch.uint8).to(device)
    split = Split(
        Held(images),
        rows=torch.arange(len(images)),
        labels=torch.zeros(len(images), dtype=torch.int64, device=device),
        augmentation=chosen("crop-flip", arguments.size, arguments.size),
        device=device,
    )
    print(f"{arguments.images:,} images of {arguments.size}x{arguments.size}x{arguments.channels} on {device}")
    for batch_size in arguments.batch_sizes:
        rates = sorted(_rates(split, batch_size, arguments.seconds, device))
        print(
            f"batch {batch_size}, {arguments.threads} threads: {statistics.median(rates):,.0f} images/s"
            f" (slowest tenth {rates[len(rates) // 10]:,.0f}, n = {len(rates)})"
        )
    print(f"bytes held on the device / raw bytes: {(images.nbytes + split.labels.nbytes) / images.nbytes:.3f}")
    print(f"peak memory, batches and all, / raw bytes: {(_peak_bytes(device) - before) / images.nbytes:.3f}")


def _peak_bytes(device: torch.device) -> int:
    """Return the most memory that was ever in use: the process's on a CPU, the allocated on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def _rates(split: Split, batch_size: int, seconds: float, device: torch.device) -> list[float]:
    """Return the images/s of each batch over `seconds`, after a tenth of that to warm up."""
    rates: list[float] = []
    began = time.perf_counter()
    epoch = 0
    while True:
        before = time.perf_counter()
        for batch in split.batches(batch_size, epoch=epoch, seed=0, augment=True, drop_last=True):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            now = time.perf_counter()
            if now - began > 0.1 * seconds:
                rates.append(len(batch.images) / (now - before))
            if now - began > 1.1 * seconds and rates:
                return rates
            before = now
        epoch += 1


if __name__ == "__main__":
    main()
