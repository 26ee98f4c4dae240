#!/usr/bin/env python3
"""Makes the sample data in assets/: a picture of a harbour and a table of orders.

It is deterministic and needs no package: each run gives the same contents. The bytes of the picture may differ with another
zlib, which may compress differently. Therefore `--check` compares pixels.

    scripts/make-assets.py            # writes assets/harbour.png and assets/orders.csv
    scripts/make-assets.py --check    # exit 1 if the files differ
"""

import math
import struct
import sys
import zlib
from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"
WIDTH, HEIGHT, HORIZON = 1600, 1000, 560
ROWS = 10_000


class Lcg:
    """A small generator: `random` may change between versions of Python, this class cannot."""

    def __init__(self, seed):
        self.state = seed

    def below(self, bound):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % bound


# --- the picture ---


def mix(a, b, t):
    """The colour between a and b; deliberately coarse, because smooth noise would not compress."""
    return tuple(int(x + (y - x) * t) for x, y in zip(a, b))


def sky_and_sea():
    """Rows of pixels: a sky that brightens to the horizon, a sun, a sea with waves and the sun's path on it."""
    sun_x, sun_y, sun_r = 1120, 400, 78
    rows = []
    for y in range(HEIGHT):
        row = bytearray()
        if y < HORIZON:
            base = mix((38, 62, 128), (250, 186, 120), (y / HORIZON) ** 1.4)
            for x in range(WIDTH):
                d2 = (x - sun_x) ** 2 + (y - sun_y) ** 2
                if d2 <= sun_r * sun_r:
                    row += bytes((255, 238, 190))
                elif d2 < 230 * 230:
                    glow = (1 - (math.isqrt(d2) - sun_r) / (230 - sun_r)) * 0.5
                    row += bytes(mix(base, (255, 226, 168), glow))
                else:
                    row += bytes(base)
        else:
            depth = (y - HORIZON) / (HEIGHT - HORIZON)
            base = mix((196, 140, 112), (14, 44, 78), depth**0.6)
            path = 40 + int(150 * depth)
            for x in range(WIDTH):
                wave = math.sin(x / (14 + 40 * depth) + y * 0.9) * math.sin(y / (2.5 + 9 * depth))
                if wave > 0.75:
                    base_here = mix(base, (250, 214, 170), 0.55 if abs(x - sun_x) < path else 0.16)
                else:
                    base_here = base
                row += bytes(base_here)
        rows.append(row)
    return rows


def polygon(rows, points, colour):
    """Fills a polygon, scan line by scan line."""
    pixel = bytes(colour)
    for y in range(max(0, min(p[1] for p in points)), min(HEIGHT, max(p[1] for p in points) + 1)):
        cuts = []
        for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1]):
            if (y1 <= y) != (y2 <= y):
                cuts.append(x1 + (y - y1) * (x2 - x1) / (y2 - y1))
        cuts.sort()
        for left, right in zip(cuts[::2], cuts[1::2]):
            a, b = max(0, round(left)), min(WIDTH, round(right))
            if a < b:
                rows[y][a * 3 : b * 3] = pixel * (b - a)


def boat(rows, x, y, size, hull, sail):
    """A sailing boat whose water line is at (x, y)."""

    def at(dx, dy):
        return (x + int(dx * size), y + int(dy * size))

    polygon(rows, [at(-0.55, -0.12), at(0.6, -0.16), at(0.45, 0.06), at(-0.42, 0.06)], hull)
    polygon(rows, [at(0.0, -1.25), at(0.025, -1.25), at(0.025, -0.14), at(0.0, -0.14)], (60, 42, 34))
    polygon(rows, [at(0.04, -1.2), at(0.55, -0.24), at(0.04, -0.2)], sail)
    polygon(rows, [at(-0.02, -1.05), at(-0.48, -0.22), at(-0.02, -0.2)], mix(sail, (120, 110, 120), 0.25))
    polygon(rows, [at(-0.4, 0.07), at(0.42, 0.07), at(0.2, 0.3), at(-0.16, 0.3)], mix(hull, (16, 40, 70), 0.7))


def harbour():
    rows = sky_and_sea()
    polygon(rows, [(0, 560), (0, 430), (130, 470), (260, 400), (420, 505), (560, 480), (700, 561)], (72, 62, 96))
    polygon(rows, [(0, 561), (0, 500), (180, 520), (330, 545), (420, 561)], (50, 46, 72))
    noise = Lcg(5)
    for i in range(11):  # houses along the shore
        x, width, height = 12 + i * 34, 22 + noise.below(9), 20 + noise.below(26)
        wall = [(176, 82, 66), (208, 168, 112), (120, 132, 148), (222, 214, 198)][noise.below(4)]
        polygon(rows, [(x, 560), (x, 560 - height), (x + width, 560 - height), (x + width, 560)], wall)
        peak = 560 - height - 12
        polygon(rows, [(x - 2, 560 - height), (x + width // 2, peak), (x + width + 2, 560 - height)], (92, 44, 40))
    polygon(rows, [(1330, 561), (1350, 330), (1390, 330), (1410, 561)], (236, 230, 220))  # lighthouse
    for i in range(3):
        top = 370 + i * 64
        left, right = 1346 - i * 4, 1394 + i * 4
        polygon(rows, [(left - 2, top + 26), (left, top), (right, top), (right + 2, top + 26)], (190, 58, 52))
    polygon(rows, [(1344, 330), (1370, 292), (1396, 330)], (60, 48, 56))
    polygon(rows, [(1240, 600), (1290, 548), (1460, 545), (1600, 575), (1600, 640), (1300, 625)], (58, 54, 66))
    boat(rows, 300, 700, 150, (150, 52, 44), (244, 238, 224))
    boat(rows, 760, 640, 90, (40, 70, 92), (232, 204, 160))
    boat(rows, 1010, 840, 240, (52, 58, 70), (248, 240, 226))
    boat(rows, 560, 600, 44, (88, 60, 48), (240, 226, 206))
    for i in range(9):  # gulls
        x, y, s = 480 + noise.below(560), 90 + noise.below(220), 8 + noise.below(9)
        polygon(rows, [(x - s * 2, y - s), (x, y), (x + s * 2, y - s), (x, y + 4)], (50, 50, 66))
    return rows


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows):
    """RGB, 8 bits, each row stored as the difference to the one above (filter 2), which fits flat colours."""
    raw, above = bytearray(), bytes(WIDTH * 3)
    for row in rows:
        raw.append(2)
        raw += bytes((a - b) & 255 for a, b in zip(row, above))
        above = row
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(raw), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


# --- the table ---

REGIONS = ["north", "south", "east", "west", "overseas"]
# Name and price in cents.
PRODUCTS = [
    ("rope", 1890),
    ("anchor", 24900),
    ("lantern", 5450),
    ("compass", 12900),
    ("sailcloth", 8725),
    ("chart", 2100),
    ("buoy", 6600),
]
MONTHS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]


def orders():
    noise = Lcg(11)
    days = [(m + 1, d + 1) for m, length in enumerate(MONTHS) for d in range(length)]
    lines = ["id,date,region,product,quantity,unit_price"]
    for i in range(ROWS):
        month, day = days[i * len(days) // ROWS]
        product, cents = PRODUCTS[noise.below(len(PRODUCTS))]
        cents = cents * (85 + noise.below(31)) // 100
        # Most orders are small, a few are large. The tail makes a 95th percentile useful.
        quantity = 1 + noise.below(6) if noise.below(20) else 10 + noise.below(90)
        region = REGIONS[min(noise.below(7), noise.below(7)) % 5]
        lines.append(f"{i + 1},2025-{month:02}-{day:02},{region},{product},{quantity},{cents // 100}.{cents % 100:02}")
    return ("\n".join(lines) + "\n").encode()


# --- the files ---


def contents(data):
    """The content of a file, independent of its compression. Reads only pictures in the form of png()."""
    start = data.find(b"IDAT")
    if not data.startswith(b"\x89PNG") or start < 0:
        return data
    (length,) = struct.unpack(">I", data[start - 4 : start])
    return zlib.decompress(data[start + 4 : start + 4 + length])


def is_stale(path, data):
    return not path.is_file() or contents(path.read_bytes()) != contents(data)


def main():
    made = {"harbour.png": png(harbour()), "orders.csv": orders()}
    stale = [name for name, data in made.items() if is_stale(ASSETS / name, data)]
    if "--check" in sys.argv[1:]:
        for name in stale:
            print(f"assets/{name} differs from the output of scripts/make-assets.py: run it", file=sys.stderr)
        return 1 if stale else 0
    ASSETS.mkdir(exist_ok=True)
    for name, data in made.items():
        (ASSETS / name).write_bytes(data)
        print(f"assets/{name}: {len(data)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
