//! What a compilation costs: from nothing, and after one object changed.
//!
//! Counted is the processor time of this thread, so that other work on the machine shows little. Dropping what a
//! compilation returns is part of it. `compile` includes [`World::apply`] and [`Compiler::release`]; `apply` is the plan
//! with its execution against a kernel that does nothing.

mod worlds;

use std::{convert::Infallible, hint::black_box, time::Duration};

use cpu_time::ThreadTime;
use criterion::{
    BenchmarkGroup, Criterion, SamplingMode,
    measurement::{Measurement, ValueFormatter, WallTime},
};
use vethwall_policy::{
    compile::Compiler,
    plan::{Outcome, execute, plan},
    state::State,
    world::World,
};
use worlds::{Change, Parts, SCALES};

/// Processor time of the thread.
struct CpuTime;

impl Measurement for CpuTime {
    type Intermediate = ThreadTime;
    type Value = Duration;

    fn start(&self) -> ThreadTime {
        ThreadTime::now()
    }

    fn end(&self, start: ThreadTime) -> Duration {
        start.elapsed()
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

type Group<'c> = BenchmarkGroup<'c, CpuTime>;

fn main() {
    let mut criterion = Criterion::default()
        .with_measurement(CpuTime)
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .nresamples(5_000)
        .without_plots()
        .configure_from_args();
    for scale in SCALES {
        let parts = scale.parts();
        let mut group = criterion.benchmark_group(scale.name);
        group.sampling_mode(SamplingMode::Flat);
        full(&mut group, &parts.world());
        for change in &parts.changes {
            compiles(&mut group, &parts, change);
            plans(&mut group, &parts, change);
        }
        group.finish();
    }
    criterion.final_summary();
}

/// Everything, by a compiler that remembers nothing.
fn full(group: &mut Group<'_>, world: &World) {
    group.bench_function("full/compile", |bencher| {
        bencher.iter(|| drop(black_box(Compiler::default().compile(world))));
    });
    let state = Compiler::default().compile(world).state;
    let nothing = State::default();
    group.bench_function("full/plan", |bencher| {
        bencher.iter(|| plan(&nothing, black_box(&state)));
    });
    group.bench_function("full/apply", |bencher| {
        bencher.iter(|| apply(&nothing, black_box(&state)));
    });
}

/// One object changes, there and back, in a world that was compiled before.
fn compiles(group: &mut Group<'_>, parts: &Parts, change: &Change) {
    let mut warm = None;
    let mut time = 0;
    group.bench_function(format!("{}/compile", change.name), |bencher| {
        // Here, so that it costs nothing where only other rows are asked for.
        let (world, compiler) = warm.get_or_insert_with(|| warmed(parts));
        bencher.iter_custom(|iterations| {
            let mut total = Duration::ZERO;
            for _ in 0..iterations {
                let event = change.event(time);
                time += 1;
                let start = ThreadTime::now();
                event.happen(world);
                let compiled = compiler.compile(world);
                compiler.release(&compiled.state);
                drop(black_box(compiled));
                total += start.elapsed();
            }
            total
        });
    });
}

/// From the state before the change to the one after it, and back.
fn plans(group: &mut Group<'_>, parts: &Parts, change: &Change) {
    let mut states = None;
    let mut make = || {
        let (mut world, mut compiler) = warmed(parts);
        let before = compiler.compile(&world).state;
        change.event(0).happen(&mut world);
        let after = compiler.compile(&world).state;
        let there = apply(&State::default(), &before).observed;
        let back = apply(&there, &after).observed;
        [(there, after), (back, before)]
    };
    group.bench_function(format!("{}/plan", change.name), |bencher| {
        let mut ways = states.get_or_insert_with(&mut make).iter().cycle();
        bencher.iter(|| ways.next().map(|(from, to)| plan(black_box(from), black_box(to))));
    });
    group.bench_function(format!("{}/apply", change.name), |bencher| {
        let mut ways = states.get_or_insert_with(&mut make).iter().cycle();
        bencher.iter(|| {
            ways.next()
                .map(|(from, to)| apply(black_box(from), black_box(to)))
        });
    });
}

fn warmed(parts: &Parts) -> (World, Compiler) {
    let world = parts.world();
    let mut compiler = Compiler::default();
    let compiled = compiler.compile(&world);
    compiler.release(&compiled.state);
    (world, compiler)
}

fn apply(observed: &State, desired: &State) -> Outcome<Infallible> {
    execute(observed, plan(observed, desired), |_| Ok(()))
}
