"""
The engine's side of make.py: what is changed in its source, and one half played and rendered.

    python3 engine.py <gfootball-2.10.2>/third_party '{"seed": 7, ...}' > pictures

The engine is built for the system's Python. That one runs this file, and has no other package: so
here is the standard library alone, and pictures leave as bytes.
"""
import json
import os
import re
import struct
import sys
from pathlib import Path

FPS = 2
# A fixed time is drawn anew for each occasion, from the match's number and the moment: the same in
# every run of the match, with pictures or without.
VARY = """#include <cmath>
#include <cstdio>
#include <cstdlib>
inline long MatchNumber(const char *name, long otherwise) {
  return getenv(name) ? atol(getenv(name)) : otherwise;
}
inline long Vary(unsigned long ms, long low, long high) {     // low, low + 10, ..., high
  unsigned long h = ms * 0x9e3779b97f4a7c15UL + MatchNumber("GF_SEED", 0) * 0xbf58476d1ce4e5b9UL;
  h = (h ^ h >> 29) * 0x94d049bb133111ebUL;
  return low + (long) ((h ^ h >> 32) % (unsigned long) ((high - low) / 10 + 1)) * 10;
}
inline void LogEvent(unsigned long ms, const std::string &what, int team) {
  static FILE *file = fopen(getenv("GF_EVENTS") ? getenv("GF_EVENTS") : "/dev/null", "w");
  fprintf(file, "%lu\\t%s\\t%d\\n", ms, what.c_str(), team), fflush(file);
}

"""
CAMERA = """  const RefereeBuffer &stop = referee->GetBuffer();
  bool closeUp = stop.active && !IsInPlay() && stop.stopTime > 0 &&
      actualTime_ms > stop.stopTime + Vary(stop.stopTime + 1, 700, 2400) &&
      actualTime_ms < stop.prepareTime &&
      Vary(stop.stopTime + 2, 0, 990) < (IsGoalScored() ? 850 : 300);
  if (!closeUp) {"""
REFEREE = """  static bool dead = true;
  if (buffer.active != dead) {
    LogEvent(match->GetActualTime_ms(), (buffer.active ? "stop:" : "taken:") +
             int_to_str(buffer.desiredSetPiece), buffer.teamID);
    if (buffer.active) buffer.prepareTime += match->IsGoalScored() ?
        Vary(buffer.stopTime, 2500, 6000) : Vary(buffer.stopTime, -1200, 1500);
    buffer.startTime = buffer.prepareTime + 2000;
    dead = buffer.active;
  }
"""
MATCH, OFFICIAL = "src/onthepitch/match.cpp", "src/onthepitch/referee.cpp"
SHADERS, GRAPHICS = "data/media/shaders/", "src/systems/graphics/objects/"

EDITS = [  # file, text that is there once, text in its place, why
    # ----- building
    ("CMakeLists.txt", "${GCC_COVERAGE_COMPILE_FLAGS} -fPIC -g -O3",
     "-fPIC -O2 -w -DBOOST_BIND_GLOBAL_PLACEHOLDERS", "no debug symbols: a third of the time"),
    ("CMakeLists.txt", "target_link_libraries(${LIB_NAME} ${LIBRARIES})",
     "target_link_libraries(${LIB_NAME} ${LIBRARIES})\n"
     "set_source_files_properties(src/onthepitch/player/humanoid/humanoid.cpp PROPERTIES "
     "SKIP_UNITY_BUILD_INCLUSION ON)\n"
     "set_target_properties(${LIB_NAME} PROPERTIES UNITY_BUILD OFF)",
     "two files that cannot be compiled in one piece with their neighbours"),
    # ----- the log: "ms<TAB>what<TAB>team" a line, in the file GF_EVENTS
    ("src/onthepitch/match.hpp", "class Match {", VARY + "class Match {", "log, and varied times"),
    (MATCH, "  messageCaption->SetCaption(msg);",
     "  LogEvent(actualTime_ms, \"message:\" + msg, -1);\n  return;\n"
     "  messageCaption->SetCaption(msg);",
     "goal, offside, foul: into the log, not into the picture"),
    (MATCH, "== e_FunctionType_Special) referee->AlterSetPiecePrepareTime("
     "GetActualTime_ms() + 1000)",
     "== e_FunctionType_Special) LogEvent(actualTime_ms, \"card shown\", -1), "
     "referee->AlterSetPiecePrepareTime(GetActualTime_ms() + "
     "Vary(referee->GetBuffer().stopTime, 300, 2500))", "a card; then 0.3 to 2.5 s, not 1"),
    ("src/onthepitch/team.cpp", "  lastTouchPlayer = player;",
     "  lastTouchPlayer = player;\n  LogEvent(match->GetActualTime_ms(), \"touch:\" + "
     "int_to_str(player->GetCurrentFunctionType()) + \":\" + int_to_str(touchType), GetID());",
     "every touch of the ball: e_FunctionType, e_TouchType"),
    (OFFICIAL, "  if (afterSetPieceRelaxTime_ms > 0) afterSet",
     REFEREE + "  if (afterSetPieceRelaxTime_ms > 0) afterSet",
     "ball out of play, set piece taken: e_GameMode; 0.8 to 3.5 s from a stop to the cut, not 2; "
     "3 to 6.5 s after a goal, not 0.5"),
    # ----- what would tell the label
    (MATCH, "\"game_radar\", 38, 78,", "\"game_radar\", 38, 178,", "the radar: below the picture"),
    ("src/onthepitch/player/player.cpp", "void Player::Put2D(bool mirror) {",
     "void Player::Put2D(bool mirror) {\n  return;", "no name over the player with the ball"),
    (MATCH, "if (!IsInPlay() && referee->GetBuffer().prepareTime + 10 <",
     "if (false && referee->GetBuffer().prepareTime + 10 <",
     "players move before a set piece, too: as shipped the picture stands still for 2 s"),
    (OFFICIAL, "        PrepareSetPiece(buffer.desiredSetPiece);",
     "        PrepareSetPiece(buffer.desiredSetPiece);\n"
     "        buffer.startTime = buffer.prepareTime + Vary(buffer.prepareTime, 600, 3000);",
     "0.6 to 3 s from the cut to the whistle, not 2"),
    (MATCH, "  if (!IsGoalScored() || (IsGoalScored() && goalScoredTimer < 1000)) {", CAMERA,
     "the close-up: after 85 % of goals and 30 % of other stops, 0.7 to 2.4 s later, not 1"),
    (MATCH, "    Vector3 targetPos = ball->Predict(0).Get2D();",
     "    Vector3 targetPos = GetDesignatedPossessionPlayer()->GetPosition();",
     "it shows a player, after any stop"),
    (MATCH, "radian rot = (float)goalScoredTimer * 0.0005f;",
     "radian rot = (float)(actualTime_ms - stop.stopTime) * 0.0000005f * "
     "Vary(stop.stopTime + 3, -700, 700) + Vary(stop.stopTime + 4, -600, 600) * 0.001f;",
     "it turns to either side"),
    (MATCH, "GetReferee()->GetBuffer().stopTime < GetActualTime_ms() - 1000) {",
     "GetReferee()->GetBuffer().stopTime + Vary(GetReferee()->GetBuffer().stopTime + 5, 600, 2600) "
     "< GetActualTime_ms()) {", "the referee who shows a card: 0.6 to 2.6 s after, not 1"),
    (MATCH, "unsigned int zoomTime = 2000;", "unsigned int zoomTime = 0;",
     "no flight from above into the first kick-off"),
    (OFFICIAL, "if (severity > 1.4) foul.foulType = 2;",
     "if (severity > 1.6) foul.foulType = 2;", "fewer cards among the fouls"),
    # ----- fouls: as shipped the engine's own players commit none
    (MATCH, "if (p1->GetCurrentFunctionType() == e_FunctionType_Interfere) tripType = 1;",
     "if (p1->GetCurrentFunctionType() == e_FunctionType_Interfere) tripType = 2;",
     "a standing tackle can be a foul"),
    (MATCH, "if (p2->GetCurrentFunctionType() == e_FunctionType_Interfere) tripType = 1;",
     "if (p2->GetCurrentFunctionType() == e_FunctionType_Interfere) tripType = 2;",
     "of the other player, too"),
    # ----- the camera
    (MATCH, "cameraFOV = (fov * 28.0f) - (cameraNodePosition.coords[1] / 30.0f);",
     "cameraFOV = ((fov * 28.0f) - (cameraNodePosition.coords[1] / 30.0f)) * "
     "MatchNumber(\"GF_VIEW\", 700) * 0.001f;", "a narrower view: larger players"),
    (MATCH, "(distRot + (0.42f - height", "(distRot + (0.435f - height",
     "aimed at the ball, not 7 m in front of it"),
    (MATCH, "camPosSize = 150;", "camPosSize = 90;", "it follows in 0.9 s, not 1.5"),
    (MATCH, "(1.0f - _default_CameraZoom * 0.3f),\n", "0.93f,\n", "it goes along to the goals"),
    (MATCH, "float maxH = pitchHalfH * 0.60f", "float maxH = pitchHalfH * 0.90f",
     "and to the side lines"),
    (MATCH, "  shudder *= 0.2f;", "  shudder *= 0.2f;\n"
     "  shudder += Vector3(std::sin(actualTime_ms * 0.00001f * MatchNumber(\"GF_SWAY\", 100)), "
     "std::sin(actualTime_ms * 0.000007f * MatchNumber(\"GF_SWAY\", 100)), 0) * 1.2f;",
     "held by hand, by 1.2 m: the picture does not stand still when the players do"),
    (GRAPHICS + "graphics_camera.cpp", "    Matrix4 projectionMatrix = renderer->",
     "    renderer->SetFOV(buffer.cameraFOV);\n    Matrix4 projectionMatrix = renderer->",
     "as shipped the camera's angle comes a picture late: half a second, at two a second"),
    ("src/onthepitch/player/humanoid/humanoidbase.cpp",
     "humanoidNode->SetPosition(startPos, false);", "humanoidNode->SetPosition(startPos, true);",
     "as shipped a picture leaves old places of the limbs behind, where a ball in the hands then "
     "goes: another match than without pictures"),
    # ----- variety, light, speed
    (MATCH, "float brightness = 1.0f;", "float brightness = boostrandom(0.7f, 1.2f);",
     "light; the sun's place and colour are drawn as shipped"),
    ("src/onthepitch/proceduralpitch.cpp",
     "float rToB = GetConfiguration()->GetReal(\"graphics_pitchredtoblueratio\", 0.5f)",
     "static const float rToB = (MatchNumber(\"GF_PITCH\", 500) * 0.001f)",
     "the grass: 0 is bluish, 1000 is yellow"),
    (MATCH, "GeneratePitch(2048, 1024, 1024, 512, 2048, 1024)",
     "GeneratePitch(1024, 512, 512, 256, 1024, 512)", "painting it is nearly all of a start"),
    (GRAPHICS + "graphics_light.cpp", "2048, 2048,", "1024, 1024,", "shadows of 15 cm a texel"),
    (SHADERS + "ambient.frag", "for (int i = 0; i < SSAO_kernelSize; ++i) {\n\n    // get",
     "for (int i = 0; i < 0; ++i) {\n\n    // get", "32 texture reads a pixel for nothing"),
    (SHADERS + "postprocess.frag", "int SSAO_blurSize = 4;", "int SSAO_blurSize = 1;", "the same"),
    (SHADERS + "postprocess.frag", "  stdout = vec4(fragColor, 0);",
     "  stdout = vec4(pow(fragColor, vec3(1.0 / 2.2)), 0);",
     "without a window nobody applies the gamma curve: the pictures would be nearly black"),
]
BALL, BALL_SCALE = "data/media/objects/balls/generic.ase", 1.6  # drawn larger: 2 pixels, not 1


def edit(folder):
    """Makes EDITS in the fresh source below `folder`; ValueError, and nothing is changed, unless
    each text is there once."""
    texts = {file: (Path(folder) / file).read_bytes().decode("utf-8", "surrogateescape")
             for file in {file for file, *_ in EDITS} | {BALL}}
    for file, old, new, _ in EDITS:
        end = "\r\n" if "\r\n" in texts[file] else "\n"
        old, new = old.replace("\n", end), new.replace("\n", end)
        if (count := texts[file].count(old)) != 1:
            raise ValueError(f"{folder}/{file}: {count} times, not once: {old!r}; these edits are "
                             "for an untouched gfootball 2.10.2")
        texts[file] = texts[file].replace(old, new)
    texts[BALL] = re.sub(
        r"(\*MESH_VERTEX +\d+)((?:\s+-?[\d.]+){3})", lambda found: found[1] + "".join(
            f"\t{BALL_SCALE * float(x):.4f}" for x in found[2].split()), texts[BALL])
    for file, text in texts.items():
        (Path(folder) / file).write_bytes(text.encode("utf-8", "surrogateescape"))


# x from the own goal (-1) to the middle (0), y from -0.42 to 0.42: a 4-4-2
FORMATION = (("GK", -1, 0), ("LB", -.45, -.22), ("CB", -.52, -.07), ("CB", -.52, .07),
             ("RB", -.45, .22), ("LM", -.2, -.24), ("CM", -.24, -.08), ("CM", -.24, .08),
             ("RM", -.2, .24), ("CF", -.02, -.03), ("CF", -.03, .1))


def play(third_party, half):
    """Plays one half, and writes per picture to the standard output: the state, 96 float32, then,
    unless half["size"] is null, the engine's picture.

    half: seed; skip_s, seconds before the first picture; seconds; size, (width, height), the width
    a multiple of 4; slides, the chance of a sliding tackle per picture and team without the ball;
    kicks, that of a kick somewhere by who has it; skill, of the two teams, 0 to 1; environment,
    what the edits above read.
    state: ball x y z, vx vy vz, team and player who own it (-1: nobody), then x y vx vy of 22.
    """
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)                                    # the engine prints to where nobody expects it
    os.environ.update(half["environment"], EGL_PLATFORM="surfaceless", LP_NUM_THREADS="0",
                      GFOOTBALL_FONT=f"{third_party}/fonts/AlegreyaSansSC-ExtraBold.ttf")
    sys.path.insert(0, third_party)
    import random

    import gfootball_engine as engine
    rng, game = random.Random(half["seed"]), engine.GameEnv()
    scenario = engine.ScenarioConfig.make()
    config, act = game.game_config, engine.e_BackendAction
    config.render = half["size"] is not None
    if config.render:
        config.render_resolution_x, config.render_resolution_y = half["size"]
    game.start_game()
    game.state = engine.GameState.game_running
    for team in (scenario.left_team, scenario.right_team):
        for name, x, y in FORMATION:
            x, y = (x if name == "GK" else x + rng.uniform(-.03, .02), y + rng.uniform(-.02, .02))
            team.append(engine.FormationEntry(
                x, y, getattr(engine.e_PlayerRole, f"e_PlayerRole_{name}"), False, True))
    scenario.left_agents = scenario.right_agents = 1         # who may slide; the rest is the AI
    scenario.game_engine_random_seed = half["seed"]
    scenario.reverse_team_processing = bool(rng.randrange(2))
    scenario.left_team_difficulty, scenario.right_team_difficulty = half["skill"]
    scenario.deterministic = scenario.real_time = scenario.use_magnet = False
    scenario.offsides = True
    scenario.end_episode_on_score = scenario.end_episode_on_possession_change = False
    scenario.end_episode_on_out_of_play = False
    scenario.game_duration, scenario.second_half = 10 ** 8, 10 ** 6
    game.reset(scenario, True)
    config.physics_steps_per_frame = round(100 * half["skip_s"])     # the engine counts in 10 ms
    ways = [getattr(act, name) for name in ("top", "bottom", "top_right", "bottom_right", "right")]
    back = [getattr(act, name) for name in ("top", "bottom", "top_left", "bottom_left", "left")]
    kicks = act.long_pass, act.high_pass, act.shot
    owner, ball_x = -1, 0
    for step in range(1 + round(half["seconds"] * FPS)):
        for left in (True, False):
            mine, chance = owner == 1 - left, rng.random()   # owner: 0 is the left team, -1 nobody
            if mine and chance < half["kicks"]:
                behind = ball_x < -0.6 if left else ball_x > 0.6
                game.perform_action(int(rng.choice(back if behind else ways)), left, 0)
                game.perform_action(int(rng.choice(kicks)), left, 0)
            elif not mine and owner >= 0 and chance < half["slides"]:
                game.perform_action(int(act.sliding), left, 0)
            else:
                game.perform_action(int(act.builtin_ai), left, 0)
        game.step()
        config.physics_steps_per_frame = 100 // FPS
        info = game.get_info()
        owner, ball_x = info.ball_owned_team, info.ball_position[0]
        state = [*(info.ball_position[i] for i in range(3)),
                 *(info.ball_direction[i] for i in range(3)), owner, info.ball_owned_player]
        for player in (*info.left_team, *info.right_team):
            state += player.position[0], player.position[1], *(player.direction[i] for i in (0, 1))
        if step:
            out.write(struct.pack("96f", *state))
            if config.render:
                out.write(game.get_frame())
            out.flush()


if __name__ == "__main__":
    play(sys.argv[1], json.loads(sys.argv[2]))
