"""
Small synthetic football matches, so that the whole pipeline can be watched without a video
(`python -m comedian.prepare synthetic`). Same flags, same bytes, whatever the number of processes.
In SoccerNet's own layout it

writes  <out>/{train,test}/<league>/<season>/<match>/
            {1,2}_224p/00000001.jpg ...   frames, 2 per second
            {1,2}_physics.npy             stand-in teacher features, (seconds, 64) float32
            Labels-v2.json                in the first --labelled train matches, in every test match
        <out>/classes.txt                 the 8 classes, by SoccerNet's names and in its order
        <out>/synthetic.json              the settings; a second call with the same ones returns

How a half comes about, in the order of this file:
  1. `Script` writes it: beats (where everyone is, when), cuts (what the broadcast shows), events.
  2. `on_screen` samples it at the times of the frames; between beats all walk in straight lines.
  3. `Painter` draws what is on screen: a plain top-down pitch, or one of three close-ups.
     Replays are slow and framed. With --hard they look like play, and a goal like a miss until the
     restart, 5 to 11 s later: only what comes before and after tells.
  4. `physics` measures what is on screen, and `teacher` turns that into features.

The teacher stands in for the features of a large pretrained network. It is privileged: it reads the
simulator's state, though only what a perfect eye could read from a frame and its neighbours (kind
of shot, camera, ball, players, referee). It never sees an event, nor which part of the script runs.
Units: metres from the centre spot, x along the pitch; seconds from the start of the half.
"""
import contextlib
import functools
import json
import multiprocessing
import os
import reprlib
from pathlib import Path

import numpy as np
from tqdm import tqdm

from comedian import DataError, formats, write_file, write_text
from comedian.frames import DEFAULT_FPS, opencv
from comedian.soccernet import SOCCERNET_CLASSES

cv2 = opencv()

CLASSES = tuple(name for name in SOCCERNET_CLASSES if name in {
    "Kick-off", "Goal", "Substitution", "Shots off target", "Throw-in", "Foul", "Corner",
    "Yellow card"})

# ------------------------------------------------------------------ knobs: what is seen, how long
# Ranges are (low, high), drawn anew each time. At two frames a second, 3 s are six frames.
LENGTH_M, WIDTH_M = 105, 68            # a pitch
MARGIN_M = 7                           # grass beyond the lines that the camera may show
WIDE_M, TIGHT_M = 44, 30               # what the camera sees across: in play, before a restart
FOUL_M = 22                            # and once a player lies on the ground
PLAYER_M, BALL_M = 1.5, 1.1            # radius; larger than life, for a metre is about a pixel

OPEN_PLAY_S = (6.0, 13.0)              # between incidents; sets the rate of events
PASS_S = (0.9, 1.8)
FLIGHT_S = 0.8                         # a shot, a cross, a throw
WAIT_S = (1.6, 3.0)                    # ball and players in place, until it is kicked or thrown
WALK_S = 2.0                           # from a stop to the places for the restart
CHEER_AFTER_S = (0.8, 1.3)             # from goal to close-up; so long it could be a miss
CHEER_S = (3.5, 5.0)
FORESEEN_S = 1.0                       # so far ahead the camera knows where the ball goes
DOWN_S = 4.0                           # a fouled player stays on the ground
CARD_AFTER_S, CARD_S = (0.5, 1.0), (3.0, 4.0)      # referee close by without the card; with it
SWAP_AFTER_S, SWAP_S = (1.5, 2.5), (2.0, 3.0)      # touchline until one steps in; after that
REPLAY_S, REPLAY_SPEED = (3.0, 4.0), 0.5
REPLAY_AGO_S = 8                       # a replay over a restart shows what was then
P_REPLAY = 0.25                        # after a goal, a miss, a foul without card
HARD_P_REPLAY, HARD_SPEED = 0.6, 1.0   # --hard: more of them, and at the speed of play
HARD_VERSION = 2                       # in the record: a folder of the first hard scenes is refused
P_CARD = 0.55                          # given a foul
P_HIDDEN = 0.06                        # a restart that the broadcast misses: a replay runs over it
INCIDENTS = {"goal": 0.15, "miss": 0.16, "corner": 0.17, "throw_in": 0.18, "foul": 0.21,
             "substitution": 0.13}

WIDE, CHEER, CARD, BENCH, REPLAY = range(5)        # kinds of shot on screen
HOME, AWAY, REFEREE, BALL = slice(0, 6), slice(6, 12), 12, 13        # rows of a scene, (14, 2)
TEAMS = (HOME, AWAY)
# Where six play who attack towards +x: keeper, two behind, one between, two in front.
FORMATION = np.array([[-47, 0], [-24, -13], [-24, 13], [-9, 0], [8, -12], [8, 12]], float)


# ------------------------------------------------------------------ 1. the script of a half
class Script:
    """One half, written beat by beat from the start whistle on.

    beats   list of (second, scene (14, 2), metres across); all walk straight from beat to beat
    cuts    list of (second, kind, team, value); the shot lasts until the next cut. `value` is the
            second when the card goes up (CARD), the substitute steps in (BENCH), the replayed scene
            began (REPLAY)
    falls   list of (from second, to second, player)
    events  list of (second, label, team, shown)
    """

    def __init__(self, rng, seconds, half, hard=False):
        self.rng, self.now_s, self.hard = rng, 0.0, hard
        self.attack = (1, -1) if half == 1 else (-1, 1)    # the way each team plays, as a sign of x
        self.beats, self.cuts, self.falls, self.events = [], [(0.0, WIDE, 0, 0.0)], [], []
        self.scene, self.across_m = np.zeros((14, 2)), WIDE_M
        team = int(rng.integers(2))
        self.scene[:12] = self.kick_off_places(team)
        self.scene[REFEREE] = 0, -8
        self.beats.append((0.0, self.scene, WIDE_M))

        self.kick_off(team)
        while self.now_s < seconds:
            team = self.passes(team, rng.uniform(*OPEN_PLAY_S))
            incident = rng.choice(list(INCIDENTS), p=list(INCIDENTS.values()))
            team = getattr(self, incident)(team)           # returns the team that has the ball then

    # -- the four verbs everything is written with
    def move(self, seconds, ball=None, players=None, referee=None, across_m=None):
        """Whoever is named arrives at a new place in `seconds`; the others stay where they are."""
        self.now_s += seconds
        self.scene = self.scene.copy()
        self.across_m = across_m or self.across_m
        for row, place in ((slice(0, 12), players), (REFEREE, referee), (BALL, ball)):
            if place is not None:
                self.scene[row] = place
        self.beats.append((self.now_s, self.scene, self.across_m))

    def cut(self, kind, team=0, value=0.0):
        self.cuts.append((self.now_s, kind, team, value))

    def event(self, label, team, shown=True):
        self.events.append((self.now_s, label, team, shown))

    def restart(self, label, team, to, players=None):
        """All are in place and wait; then the ball is played `to`: the labelled moment, if any."""
        hidden = label is not None and self.now_s > REPLAY_AGO_S and self.rng.random() < P_HIDDEN
        if hidden:
            self.cut(REPLAY, value=self.now_s - REPLAY_AGO_S)
        self.move(self.rng.uniform(*WAIT_S), across_m=TIGHT_M)
        if label is not None:
            self.event(label, team, shown=not hidden)
        self.move(FLIGHT_S, ball=to, players=players, across_m=WIDE_M)
        if hidden:
            self.cut(WIDE)

    def perhaps_replay(self, since_s):
        """The last scene again, while on the pitch all wait."""
        if self.rng.random() < (HARD_P_REPLAY if self.hard else P_REPLAY):
            self.cut(REPLAY, value=since_s)
            self.move(self.rng.uniform(*REPLAY_S))
            self.cut(WIDE)

    # -- where people stand
    def in_play(self, ball, carrier=None):
        """(12, 2): two formations drawn towards the ball, which one of team `carrier` has."""
        ball, players = np.asarray(ball, float), np.empty((12, 2))
        for rows, way in zip(TEAMS, self.attack, strict=True):
            players[rows] = FORMATION * way * 0.7 + ball * (0.6, 0.5)
            players[rows] += self.rng.normal(0, 2, (6, 2))
            players[rows][0] = -47 * way, ball[1] * 0.15                  # the keeper stays at home
        if carrier is not None:
            players[self.nearest(players, ball, carrier)] = ball - (self.attack[carrier] * 1.5, 0)
        return players.clip((-51, -33), (51, 33))

    def nearest(self, players, place, team):
        """Row of the team's field player nearest to a place."""
        first = TEAMS[team].start
        return first + 1 + int(np.hypot(*(players[first + 1:first + 6] - place).T).argmin())

    def kick_off_places(self, team):
        """(12, 2): each team in its own half, two of `team` at the ball."""
        players = np.empty((12, 2))
        for rows, way in zip(TEAMS, self.attack, strict=True):
            players[rows] = FORMATION * (0.8, 1) * way
            players[rows][3:] = np.array([[-14, 0], [-11, -11], [-11, 11]]) * way
        players[TEAMS[team]][4:] = np.array([[-1.5, -2], [-1.5, 2]]) * self.attack[team]
        return players

    # -- what happens; every method returns the team that has the ball afterwards
    def kick_off(self, team):
        self.move(WALK_S, ball=(0, 0), players=self.kick_off_places(team), referee=(0, -8),
                  across_m=WIDE_M)
        self.restart("Kick-off", team, to=(-14 * self.attack[team], self.rng.uniform(-8, 8)))
        return team

    def passes(self, team, seconds):
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            if self.rng.random() < 0.25:
                team = 1 - team                            # intercepted
            step = self.rng.uniform((-5, -14), (14, 14)) * (self.attack[team], 1)
            ball = (self.scene[BALL] + step).clip((-40, -26), (40, 26))
            self.move(self.rng.uniform(*PASS_S), ball, self.in_play(ball, team),
                      referee=ball * 0.8 - (0, 9), across_m=WIDE_M)
        return team

    def shot(self, team):
        """From before the box into the goal mouth, or just over it: seen from above, the same."""
        way = self.attack[team]
        ball = np.array([way * self.rng.uniform(30, 39), self.rng.uniform(-13, 13)])
        self.move(1.5, ball, self.in_play(ball, team), referee=ball - (12 * way, 6))
        self.move(FLIGHT_S, ball=(way * (LENGTH_M / 2 + 1.5), self.rng.uniform(-3, 3)))

    def goal(self, team):
        self.shot(team)
        self.event("Goal", team)
        shot_s = self.now_s - 3
        self.move(self.rng.uniform(*CHEER_AFTER_S))
        self.cut(CHEER, team)
        if self.hard:
            self.move(FORESEEN_S)      # else the camera would tell
        self.move(self.rng.uniform(*CHEER_S), ball=(0, 0), players=self.kick_off_places(1 - team),
                  referee=(0, -8))
        self.cut(WIDE)
        self.perhaps_replay(shot_s)
        return self.kick_off(1 - team)

    def miss(self, team):
        self.shot(team)
        self.event("Shots off target", team)
        way, shot_s = self.attack[team], self.now_s - 3
        self.move(self.rng.uniform(*CHEER_AFTER_S))
        if self.hard:                                      # as after a goal, until the restart
            self.cut(CHEER, team)
            self.move(FORESEEN_S + self.rng.uniform(*CHEER_S))
            self.cut(WIDE)
        self.perhaps_replay(shot_s)
        spot = np.array([way * 45, self.rng.choice([-6, 6])])             # goal kick
        players = self.in_play(spot * (0.3, 1))
        players[TEAMS[1 - team].start] = spot + (3 * way, 0)              # taken by the keeper
        self.move(WALK_S, spot, players, referee=spot * 0.5)
        self.restart(None, 1 - team, to=(way * 5, self.rng.uniform(-15, 15)))
        return 1 - team

    def corner(self, team):
        way, side = self.attack[team], self.rng.choice([-1, 1])
        ball = np.array([way * 42, side * self.rng.uniform(12, 20)])
        self.move(1.2, ball, self.in_play(ball, team), referee=ball * (0.7, 0.5))
        self.move(FLIGHT_S, ball=(way * 56, side * self.rng.uniform(12, 20)))     # turned behind
        spot = np.array([way * 52, side * 33.5])
        players = self.in_play((way * 40, 0))
        for rows in TEAMS:                                 # all but the keepers into the box
            players[rows][1:] = self.rng.uniform((38, -10), (49, 10), (5, 2)) * (way, 1)
        players[TEAMS[team].start + 5] = spot + (way, side)
        players[TEAMS[1 - team].start] = way * 51, 0
        self.move(WALK_S, spot, players, referee=(way * 34, 0))
        box = np.array([way * 44, self.rng.uniform(-6, 6)])
        self.restart("Corner", team, to=box)
        clear = np.array([way * 25, self.rng.uniform(-20, 20)])
        self.move(1.2, clear, self.in_play(clear, 1 - team))
        return 1 - team

    def throw_in(self, team):
        side, way = self.rng.choice([-1, 1]), self.attack[team]
        x = np.clip(self.scene[BALL, 0] + self.rng.uniform(-10, 10), -40, 40)
        self.move(1.2, ball=(x, side * 38), players=self.in_play((x, side * 28)))     # out
        spot = np.array([x, side * 35.5])
        players = self.in_play((x, side * 24))
        players[self.nearest(players, spot, team)] = spot + (0, side * 2)
        self.move(1.2, spot, players, referee=(x - 8 * way, side * 20))
        ball = np.array([x + 10 * way, side * 22])
        self.restart("Throw-in", team, to=ball, players=self.in_play(ball, team))
        return team

    def foul(self, team):
        ball = (self.scene[BALL] + self.rng.uniform(-9, 9, 2)).clip((-42, -26), (42, 26))
        players = self.in_play(ball, team)
        victim, offender = (self.nearest(players, ball, side) for side in (team, 1 - team))
        players[offender] = players[victim] + (0, 1.5)
        self.move(1.2, ball, players, referee=ball - (0, 12))
        self.event("Foul", 1 - team)
        foul_s = self.now_s
        self.falls.append((foul_s, foul_s + DOWN_S, victim))
        self.move(1.0, referee=ball - (0, 4), across_m=FOUL_M)      # all stop, the whistle
        self.move(self.rng.uniform(1.0, 2.0))
        if self.rng.random() < P_CARD:
            after_s = self.rng.uniform(*CARD_AFTER_S)
            self.cut(CARD, 1 - team, self.now_s + after_s)
            self.move(after_s)
            self.event("Yellow card", 1 - team)
            self.move(self.rng.uniform(*CARD_S))
            self.cut(WIDE)
        else:
            self.perhaps_replay(foul_s - 1)
        self.restart(None, team, to=ball + (self.attack[team] * 9, self.rng.uniform(-9, 9)))
        return team

    def substitution(self, team):
        """The keeper of `team` holds the ball, the picture cuts to the touchline."""
        ball = np.array([-46 * self.attack[team], self.rng.uniform(-5, 5)])
        players = self.in_play(ball * 0.7)
        players[TEAMS[team].start] = ball - (self.attack[team], 0)
        self.move(2.0, ball, players, referee=ball * 0.6)
        after_s = self.rng.uniform(*SWAP_AFTER_S)
        side = int(self.rng.integers(2))
        self.cut(BENCH, side, self.now_s + after_s)
        self.move(after_s)
        self.event("Substitution", side)
        self.move(self.rng.uniform(*SWAP_S))
        self.cut(WIDE)
        return team


# ------------------------------------------------------------------ 2. what is on screen, when
def on_screen(script, seconds):
    """Samples a script at the times of its F frames. Returns a dict of arrays with F rows:

    time, kind, team, value   as the cut says; `since` = seconds since that cut
    scene (F, 14, 2) metres   positions; `down` (F, 12) bool: lies on the ground
    camera (F, 2) metres      centre of the picture; `across` (F,) metres from edge to edge
    """
    time = np.arange(int(seconds * DEFAULT_FPS)) / DEFAULT_FPS             # (F,)
    cut_s, kind, team, value = (np.array(column) for column in zip(*script.cuts, strict=True))
    cut = np.searchsorted(cut_s, time, side="right") - 1
    shot = dict(time=time, since=time - cut_s[cut],
                kind=kind[cut], team=team[cut], value=value[cut])
    replay, speed = shot["kind"] == REPLAY, HARD_SPEED if script.hard else REPLAY_SPEED
    clock = np.where(replay, shot["value"] + speed * shot["since"], time)
    if script.hard:
        shot["kind"] = np.where(replay, WIDE, shot["kind"])               # for painter and teacher

    beat_s, scenes, across = (np.array(column) for column in zip(*script.beats, strict=True))

    def at(t, values):                 # straight lines between beats
        right = np.searchsorted(beat_s, t, side="right").clip(1, len(beat_s) - 1)
        weight = ((t - beat_s[right - 1]) / (beat_s[right] - beat_s[right - 1])).clip(0, 1)
        weight = weight.reshape(-1, *[1] * (values.ndim - 1))
        return values[right - 1] * (1 - weight) + values[right] * weight

    shot["scene"], shot["across"] = at(clock, scenes), at(clock, across)
    # An operator foresees where the ball goes: its mean place around this moment.
    camera = np.mean([at(clock + dt, scenes[:, BALL])
                      for dt in np.linspace(-FORESEEN_S, FORESEEN_S, 5)], axis=0)
    reach = np.array([LENGTH_M, WIDTH_M]) / 2 + MARGIN_M - shot["across"][:, None] / 2     # (F, 2)
    shot["camera"] = camera.clip(-reach, reach)
    shot["down"] = np.zeros((len(time), 12), bool)
    for start_s, stop_s, player in script.falls:
        shot["down"][(clock >= start_s) & (clock < stop_s), player] = True
    return shot


# ------------------------------------------------------------------ 3. pictures
# Colours are red, green, blue.
KITS = {"red": (205, 35, 35), "blue": (35, 60, 200), "white": (240, 240, 240),
        "orange": (240, 130, 20), "sky": (110, 190, 245), "purple": (120, 30, 140)}
PAIRS = (("red", "white"), ("blue", "white"), ("red", "sky"), ("orange", "blue"),
         ("purple", "white"), ("red", "blue"))                             # told apart at 3 pixels
GRASS, LINE, BALL_COLOUR, BLACK = (60, 140, 55), (235, 240, 235), (255, 230, 20), (25, 25, 30)
SKIN, TRACK, BOARD = (215, 170, 140), (165, 95, 75), (250, 250, 250)
SUBPIXEL = 4                           # OpenCV takes coordinates in 1/16 pixel


class Painter:
    """Draws the frames of one match; kits, grass, stripes and light are the match's own."""

    def __init__(self, rng, size):
        self.size, self.canvas = size, 2 * size            # drawn at twice the size, then halved
        light = rng.uniform(0.9, 1.08)
        named = {**KITS, "line": LINE, "ball": BALL_COLOUR, "black": BLACK, "skin": SKIN,
                 "track": TRACK, "board": BOARD}
        self.colours = {name: tuple(int(min(255, light * c)) for c in rgb[::-1])
                        for name, rgb in named.items()}                    # OpenCV wants BGR
        self.kits = PAIRS[rng.integers(len(PAIRS))][::rng.choice([-1, 1])]
        grass = light * (np.array(GRASS[::-1]) + rng.uniform(-12, 12, 3))
        self.grass = tuple(int(c) for c in grass)
        self.texture_scale = size / 16                     # pixels per metre, near the canvas's own
        self.pitch = self.draw_pitch(stripe_m=rng.uniform(6, 12), contrast=rng.uniform(0.03, 0.08))

    def draw_pitch(self, stripe_m, contrast):
        """The whole pitch as a texture, (metres * scale, metres * scale, 3)."""
        scale, half_x, half_y = self.texture_scale, LENGTH_M / 2, WIDTH_M / 2
        edge = 2 * MARGIN_M                                # no camera sees beyond the texture
        n_x, n_y = int((LENGTH_M + 2 * edge) * scale), int((WIDTH_M + 2 * edge) * scale)
        dark = np.floor(np.arange(n_x) / scale / stripe_m) % 2 * contrast             # (n_x,)
        image = np.ones((n_y, 1, 1)) * (1 - dark)[:, None] * np.array(self.grass)
        image = image.clip(0, 255).astype(np.uint8)

        def place(x, y):
            return int((x + half_x + edge) * scale), int((y + half_y + edge) * scale)

        width = max(1, round(0.7 * scale))
        white = self.colours["line"]
        boxes = [(-half_x, -half_y, half_x, half_y)]
        for end in (-1, 1):                                # penalty box, goal area, goal
            boxes += [(end * half_x, -20, end * (half_x - 16.5), 20),
                      (end * half_x, -9, end * (half_x - 5.5), 9)]
            cv2.rectangle(image, place(end * half_x, -4.5), place(end * (half_x + 3), 4.5),
                          white, -1)
        for x0, y0, x1, y1 in boxes:
            cv2.rectangle(image, place(x0, y0), place(x1, y1), white, width)
        cv2.line(image, place(0, -half_y), place(0, half_y), white, width)
        cv2.circle(image, place(0, 0), int(9.15 * scale), white, width, cv2.LINE_AA)
        return image

    def frame(self, shot, i):
        """Picture i of what is on screen: (size, size, 3) uint8, blue first."""
        kind, team = shot["kind"][i], shot["team"][i]
        if kind == CHEER:
            image = self.cheer(team, shot["since"][i])
        elif kind == CARD:
            image = self.card(raised=shot["time"][i] >= shot["value"][i])
        elif kind == BENCH:
            image = self.bench(team, shot["time"][i] - shot["value"][i])
        else:
            image = self.wide(shot["scene"][i], shot["down"][i], shot["camera"][i],
                              shot["across"][i])
        if kind == REPLAY:                                 # the broadcaster's frame around a replay
            cv2.rectangle(image, (0, 0), (self.canvas - 1,) * 2, self.colours["board"],
                          self.canvas // 12)
        return cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_AREA)

    def wide(self, scene, down, camera, across):
        scale = self.canvas / across                       # canvas pixels per metre
        zoom = scale / self.texture_scale
        corner = np.array([LENGTH_M, WIDTH_M]) / 2 + 2 * MARGIN_M + camera - across / 2    # metres
        matrix = np.array([[zoom, 0, -corner[0] * scale], [0, zoom, -corner[1] * scale]])
        image = cv2.warpAffine(self.pitch, matrix, (self.canvas, self.canvas))
        unit = scale * 2 ** SUBPIXEL
        xy = ((scene - camera + across / 2) * unit).astype(int).tolist()
        for row in (*range(13), BALL):                     # the ball last, over everyone
            name = {REFEREE: "black", BALL: "ball"}.get(row) or self.kits[row // 6]
            radius = BALL_M if row == BALL else PLAYER_M
            lying = row < 12 and down[row]                 # full length on the grass
            axes = (2.2 * radius, 0.7 * radius) if lying else (radius, radius)
            cv2.ellipse(image, xy[row], [int(a * unit) for a in axes], 0, 0, 360,
                        self.colours[name], -1, cv2.LINE_AA, SUBPIXEL)
        return image

    # -- close-ups; coordinates are shares of the picture
    def at(self, *shares):
        return tuple(int(share * self.canvas) for share in shares)

    def person(self, image, x, y, height, shirt, arms=()):
        """A head over a torso that ends `height` below; `arms` are the places of hands."""
        width = max(1, int(0.16 * height * self.canvas))
        for hand in arms:
            cv2.line(image, self.at(x, y + 0.3 * height), self.at(*hand), shirt, width, cv2.LINE_AA)
            cv2.circle(image, self.at(*hand), width // 2, self.colours["skin"], -1, cv2.LINE_AA)
        cv2.ellipse(image, self.at(x, y + 0.65 * height), self.at(0.25 * height, 0.42 * height),
                    0, 0, 360, shirt, -1, cv2.LINE_AA)
        cv2.circle(image, self.at(x, y + 0.12 * height), self.at(0.15 * height)[0],
                   self.colours["skin"], -1, cv2.LINE_AA)

    def block(self, image, x0, y0, x1, y1, name):
        cv2.rectangle(image, self.at(x0, y0), self.at(x1, y1), self.colours[name], -1)

    def blank(self):
        image = np.empty((self.canvas, self.canvas, 3), np.uint8)
        image[:] = self.grass
        return image

    def cheer(self, team, since_s):
        """Three of a team, arms up, hopping."""
        image, shirt = self.blank(), self.colours[self.kits[team]]
        for k, x in enumerate((0.2, 0.8, 0.5)):
            y = 0.36 + 0.05 * np.sin(5 * since_s + 2 * k)
            self.person(image, x, y, 0.6, shirt, arms=((x - 0.17, y - 0.15), (x + 0.17, y - 0.15)))
        return image

    def card(self, raised):
        """The referee, from the chest up; once `raised`, a card in the air."""
        image = self.blank()
        self.person(image, 0.42, 0.3, 0.8, self.colours["black"],
                    arms=[(0.72, 0.3)] if raised else [])
        if raised:
            self.block(image, 0.64, 0.06, 0.84, 0.32, "ball")              # as yellow as the ball
        return image

    def bench(self, team, to_swap_s):
        """Touchline with the board; one goes off to the left, the other comes on from the right."""
        image, shirt = self.blank(), self.colours[self.kits[team]]
        image[int(0.6 * self.canvas):] = self.colours["track"]
        cv2.line(image, self.at(0, 0.6), self.at(1, 0.6), self.colours["line"], self.canvas // 24)
        self.person(image, 0.5, 0.35, 0.5, self.colours["black"])
        if to_swap_s < 1:                                  # the board comes down after the swap
            self.block(image, 0.28, 0.06, 0.72, 0.32, "board")
            self.block(image, 0.33, 0.12, 0.46, 0.26, "red")               # number going off
            self.block(image, 0.54, 0.12, 0.67, 0.26, "blue")              # number coming on
        step = 0.2 * np.clip(to_swap_s, -1.5, 1.5)
        self.person(image, 0.2 - step / 2, 0.45 + step, 0.35, shirt)
        self.person(image, 0.8 - step / 2, 0.45 - step, 0.35, shirt)
        return image


# ------------------------------------------------------------------ 4. the stand-in teacher
TEACHER_WIDTH = 64
TEACHER_CONTEXT_S = 1                  # seconds before and after that a feature averages over
TEACHER_NOISE = 0.1                    # standard deviation; the features themselves lie in (-1, 1)
NEAREST = 6                            # players measured one by one


def physics(shot):
    """Measures each of F frames: (F, P) float. A mirrored picture measures the same, since stages 1
    and 2 flip frames left to right: lengths along x are taken without sign. Of a close-up only its
    kind is known, the rest is NaN."""
    scene, camera, across = shot["scene"], shot["camera"], shot["across"]
    kinds = np.eye(5)[shot["kind"]]                                        # (F, 5)
    ball = scene[:, BALL]                                                  # (F, 2)
    velocity = np.gradient(ball, axis=0) * DEFAULT_FPS                     # metres per second
    offset = scene[:, :12] - ball[:, None]                                 # (F, 12, 2)
    distance = np.hypot(offset[..., 0], offset[..., 1])                    # (F, 12)
    near = np.take_along_axis(offset, distance.argsort(1)[:, :NEAREST, None], axis=1)
    home, away = (scene[:, rows] for rows in TEAMS)                        # (F, 6, 2) each
    referee = scene[:, REFEREE] - ball
    pace = np.hypot(*np.gradient(scene[:, :12], axis=0).transpose(2, 0, 1)).mean(1)
    numbers = np.column_stack([
        across, abs(camera[:, 0]), camera[:, 1], abs(ball), ball[:, 1], abs(velocity), pace,
        abs(near[..., 0]), near[..., 1], abs(referee[:, 0]), referee[:, 1],
        np.sort(distance, 1)[:, [0, 3, 11]], abs(home.mean(1) - away.mean(1)), home.std(1),
        away.std(1)])
    numbers[np.isin(shot["kind"], (CHEER, CARD, BENCH))] = np.nan          # not to be seen
    return np.column_stack([kinds, numbers])


@functools.cache
def teacher_basis():
    """The same for every match: mean and deviation of 20 halves that belong to no data set, and a
    random projection. Returns (mean (P,), deviation (P,), projection (P, 64))."""
    scripts = [Script(np.random.default_rng([2023, i]), 180, half=1) for i in range(20)]
    measured = np.concatenate([physics(on_screen(script, 180)) for script in scripts])
    rng = np.random.default_rng(2023)
    projection = rng.normal(0, measured.shape[1] ** -0.5, (measured.shape[1], TEACHER_WIDTH))
    return np.nanmean(measured, 0), np.nanstd(measured, 0) + 1e-6, projection


def teacher(shot, rng):
    """Features of a half, (seconds, 64) float32; row k stands for seconds [k, k + 1)."""
    mean, deviation, projection = teacher_basis()
    state = np.nan_to_num((physics(shot) - mean) / deviation)              # (F, P); NaN: the mean
    per_second = state[:len(state) // 2 * 2].reshape(-1, 2, state.shape[1]).mean(1)      # (S, P)
    padded = np.pad(per_second, ((TEACHER_CONTEXT_S,) * 2, (0, 0)), mode="edge")
    around = np.mean([padded[k:k + len(per_second)] for k in range(2 * TEACHER_CONTEXT_S + 1)], 0)
    features = np.tanh(around @ projection)                                # (S, 64)
    return (features + rng.normal(0, TEACHER_NOISE, features.shape)).astype(np.float32)


# ------------------------------------------------------------------ a match on disk
LEAGUE = "synthetic_league/2030-2031"
TOWNS = ("Ashford", "Brook", "Castle", "Dale", "Elm", "Fern", "Grange", "Hill", "Isle", "Kirk",
         "Lake", "Moor", "North", "Oak", "Pine", "Quay", "Ridge", "Stone", "Thorn", "Vale")
JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)              # full colour: the ball is 2 pixels wide


def write_match(job):
    """Renders one match below `out`, unless it is there."""
    out, split, number, labelled, settings = job
    rng = np.random.default_rng([settings["seed"], ("train", "test").index(split), number])
    seconds = settings["seconds"]
    home, away = (TOWNS[i] for i in rng.choice(len(TOWNS), 2, replace=False))
    painter = Painter(rng, settings["size"])
    scripts = [Script(rng, seconds, half, settings["hard"]) for half in (1, 2)]
    events = [[event for event in script.events if event[0] < seconds] for script in scripts]
    goals = [sum(label == "Goal" and team == side for half in events for _, label, team, _ in half)
             for side in (0, 1)]
    day = np.datetime64({"train": "2030-08-01", "test": "2031-03-01"}[split]) + number
    score = f"{goals[0]} - {goals[1]}"
    name = f"{day} - 18-00 {home} {score} {away}"
    folder = Path(out, split, LEAGUE, name)
    shots = [on_screen(script, seconds) for script in scripts]
    if is_whole(folder, seconds):
        return
    features = [teacher(shot, rng) for shot in shots]      # (seconds, 64) each

    for half, shot in enumerate(shots, start=1):
        frames = folder / f"{half}_224p"
        frames.mkdir(parents=True, exist_ok=True)
        for i in range(len(shot["time"])):
            _, jpeg = cv2.imencode(".jpg", painter.frame(shot, i), JPEG)
            (frames / f"{i + 1:08d}.jpg").write_bytes(jpeg)
    if labelled:
        annotations = [
            {"gameTime": f"{half} - {int(time) // 60:02d}:{int(time) % 60:02d}", "label": label,
             "position": str(int(1000 * time)), "team": ("home", "away")[team],
             "visibility": "visible" if shown else "not shown"}
            for half in (1, 2) for time, label, team, shown in sorted(events[half - 1])]
        date = f"{day.astype(object):%d/%m/%Y} - 18:00"
        write_text(folder / "Labels-v2.json", json.dumps({
            "UrlLocal": f"{LEAGUE}/{name}/", "UrlYoutube": "", "gameAwayTeam": away,
            "gameDate": date, "gameHomeTeam": home, "gameScore": score,
            "annotations": annotations}, indent=1))
    for half, rows in zip((1, 2), features, strict=True):  # 2_physics.npy last: the match is done
        write_file(folder / f"{half}_physics.npy", lambda file, rows=rows: np.save(file, rows))


def is_whole(folder, seconds):
    """Whether a match is there: its last file, and a frame of every half second."""
    frames = [folder / f"{half}_224p" for half in (1, 2)]
    return (folder / "2_physics.npy").is_file() and all(
        of_half.is_dir() and len(os.listdir(of_half)) == round(seconds * DEFAULT_FPS)
        for of_half in frames)


# ------------------------------------------------------------------ run
def render(args):
    """`comedian.prepare synthetic`: all matches below args.out, in as many processes as asked."""
    if args.labelled > args.train:
        raise DataError(f"--labelled {args.labelled}: there are only {args.train} train matches")
    settings = {name: getattr(args, name)
                for name in ("train", "labelled", "test", "seconds", "size", "seed")}
    settings["hard"] = HARD_VERSION if args.hard else False

    out, record = Path(args.out), Path(args.out, "synthetic.json")
    if record.exists():
        found = formats.read_json(record, "a record of this command")
        if not isinstance(found, dict) or found.keys() != {"settings", "finished"}:
            raise DataError(f"{record}: not a record of this command; choose another --out")
        found, finished = found["settings"], found["finished"]
        if isinstance(found, dict):
            found.setdefault("hard", False)                # older records do not say it
        if found != settings:
            raise DataError(f"{record}: rendered with other settings ({reprlib.repr(found)}); "
                            "remove the folder or choose another --out")
        whole = [sum(is_whole(folder, args.seconds) for folder in (out / split / LEAGUE).glob("*"))
                 for split in ("train", "test")]
        if finished and whole == [args.train, args.test]:
            print(f"{out}: already there")
            return
    elif out.exists() and (out.is_file() or any(out.iterdir())):
        raise DataError(f"{out}: there is something not made by this command; choose another --out")

    out.mkdir(parents=True, exist_ok=True)
    write_text(record, json.dumps({"settings": settings, "finished": False}))
    write_text(out / "classes.txt", "\n".join(CLASSES) + "\n")
    jobs = [(args.out, "train", i, i < args.labelled, settings) for i in range(args.train)]
    jobs += [(args.out, "test", i, True, settings) for i in range(args.test)]
    n_processes = min(args.jobs, len(jobs))
    # Not by fork: the copy of a process with threads may wait for ever for a lock that one of them
    # had. OpenCV has one thread in each: matches run side by side instead.
    pool = (multiprocessing.get_context("forkserver").Pool(n_processes, cv2.setNumThreads, (1,))
            if n_processes > 1 else contextlib.nullcontext())
    with pool:
        rendered = pool.imap_unordered(write_match, jobs) if n_processes > 1 else map(
            write_match, jobs)
        for _ in tqdm(rendered, total=len(jobs), unit="match", desc="rendering", disable=None):
            pass
    write_text(record, json.dumps({"settings": settings, "finished": True}))
    print(f"{out}: {args.train} train matches ({args.labelled} labelled), {args.test} test matches")
