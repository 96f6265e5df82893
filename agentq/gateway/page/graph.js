// A plan's tasks in layers, each behind all that it needs; what leads past a layer has a lane of its own in it.

const WIDTH = 236;
const HEIGHT = 58;
const LANE = 14;
const ACROSS = 64;
const DOWN = 22;
const ROUNDS = 8;

/** Places for tasks {task_id, needs}: {nodes: [{task, x, y, width, height}], edges: [path], width, height}.
 *
 * What a task needs outside of the plan has no place. A circle, which no plan has, would not hang it. */
export function layout(tasks) {
  const known = new Map(tasks.map((task) => [task.task_id, task]));
  const needs = new Map(tasks.map((task) => [task, (task.needs ?? []).map((one) => known.get(one)).filter(Boolean)]));
  const depth = depths(tasks, needs);
  const layers = [];
  for (const task of tasks) (layers[depth.get(task)] ??= []).push({ task, before: [], after: [], height: HEIGHT });
  const places = new Map(layers.flat().map((place) => [place.task, place]));
  const ways = tasks.flatMap((task) => needs.get(task).map((need) => way(need, task, places, depth, layers)));
  order(layers);
  const height = settle(layers);
  return {
    nodes: [...places.values()],
    edges: ways.map(drawn),
    width: layers.length * (WIDTH + ACROSS) - ACROSS,
    height,
  };
}

/** How many tasks stand in a row before each, along the longest way. */
function depths(tasks, needs) {
  const depth = new Map(tasks.map((task) => [task, 0]));
  for (let round = 0, changed = true; changed && round < tasks.length; round += 1) {
    changed = false;
    for (const task of tasks) {
      const wanted = Math.max(-1, ...needs.get(task).map((one) => depth.get(one))) + 1;
      if (wanted <= depth.get(task) || wanted >= tasks.length) continue;
      depth.set(task, wanted);
      changed = true;
    }
  }
  return depth;
}

/** The places on the way from what is needed to who needs it, with a lane in each layer between. */
function way(need, task, places, depth, layers) {
  const stops = [places.get(need)];
  for (let at = depth.get(need) + 1; at < depth.get(task); at += 1) {
    const lane = { task: null, before: [], after: [], height: LANE };
    layers[at].push(lane);
    stops.push(lane);
  }
  stops.push(places.get(task));
  for (let at = 1; at < stops.length; at += 1) {
    stops[at].before.push(stops[at - 1]);
    stops[at - 1].after.push(stops[at]);
  }
  return stops;
}

/** Order each layer by where its neighbours stand, so that few lines cross. */
function order(layers) {
  for (let round = 0; round < ROUNDS; round += 1) {
    const side = round % 2 ? "after" : "before";
    for (const layer of round % 2 ? [...layers].reverse() : layers) {
      for (const each of layers) each.forEach((one, at) => (one.rank = (at + 0.5) / each.length));
      const weight = new Map(layer.map((one) => [one, mean(one[side].map((other) => other.rank)) ?? one.rank]));
      layer.sort((one, other) => weight.get(one) - weight.get(other));
    }
  }
}

function mean(numbers) {
  return numbers.length ? numbers.reduce((sum, one) => sum + one, 0) / numbers.length : null;
}

/** Give each its place; answers how tall all of it is. */
function settle(layers) {
  const tall = (layer) => layer.reduce((sum, one) => sum + one.height + DOWN, -DOWN);
  const tallest = Math.max(...layers.map(tall));
  layers.forEach((layer, across) => {
    let y = (tallest - tall(layer)) / 2;
    for (const one of layer) {
      Object.assign(one, { x: across * (WIDTH + ACROSS), y, width: WIDTH });
      y += one.height + DOWN;
    }
  });
  return tallest;
}

function drawn(stops) {
  const bend = ACROSS / 2;
  let path = `M${stops[0].x + WIDTH} ${middle(stops[0])}`;
  for (let at = 1; at < stops.length; at += 1) {
    const [from, to] = [stops[at - 1], stops[at]];
    const end = to.task ? to.x - 5 : to.x;
    path += `C${from.x + WIDTH + bend} ${middle(from)} ${end - bend} ${middle(to)} ${end} ${middle(to)}`;
    if (!to.task) path += `H${to.x + WIDTH}`;
  }
  return path;
}

function middle(place) {
  return place.y + place.height / 2;
}
