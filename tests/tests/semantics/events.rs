//! What comes out is a function of the objects there are: however they came, went and came back.
//!
//! ```text
//! objects of the world, objects of another world ─► events in any order ─► the world's objects, shuffled ─► as if new
//! ```

use std::{collections::BTreeMap, path::PathBuf};

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::Value;
use vethwall::{
    k8s::convert::convert,
    manifests::{Loader, Store, Texts},
};
use vethwall_policy::{
    compile::{Compiler, compile},
    model::Object,
    numbers::Numbers,
    world,
};
use vethwall_tests::{
    oracle,
    worlds::{Scope, manifests, world_of},
};

use super::{
    border::{attach, load, offline, view},
    cases,
    compare::states,
    exhaustive::questions,
};

/// One thing that happens; an object is that of its number, counted round.
#[derive(Clone, Debug)]
enum Event {
    Apply(usize),
    ApplyOther(usize),
    Delete(usize),
    DeleteOther(usize),
    /// A list of everything, as after a lost connection.
    Replace,
    ReplaceByOthers,
}

fn event() -> impl Strategy<Value = Event> {
    let number = || 0..64_usize;
    prop_oneof![
        4 => number().prop_map(Event::Apply),
        4 => number().prop_map(Event::ApplyOther),
        2 => number().prop_map(Event::Delete),
        2 => number().prop_map(Event::DeleteOther),
        1 => Just(Event::Replace),
        1 => Just(Event::ReplaceByOthers),
    ]
}

/// What is broken keeps its last good version, so its past shows, as it must: it is left out here.
fn whole(mut world: oracle::World) -> oracle::World {
    world
        .cluster_policies
        .retain(|policy| view(&manifests::yaml(policy)).problems.is_empty());
    let policy = |policy: &_| manifests::yaml(&serde_json::to_value(policy).unwrap());
    world
        .policies
        .retain(|object| view(&policy(object)).problems.is_empty());
    world
}

fn cluster() -> impl Strategy<Value = oracle::World> {
    world_of(Scope {
        local: 2,
        cluster_policies: 2,
    })
    .prop_map(whole)
}

fn run(test: impl Fn(&oracle::World, &oracle::World, &[Event], &[usize]) -> Result<(), TestCaseError>) {
    let config = Config {
        cases: cases(24),
        failure_persistence: None,
        max_shrink_time: 60_000,
        ..Config::default()
    };
    let order = Just((0..64_usize).collect::<Vec<_>>()).prop_shuffle();
    let strategy = (cluster(), cluster(), vec(event(), 0..30), order);
    TestRunner::new(config)
        .run(&strategy, |(world, other, events, order)| {
            test(&world, &other, &events, &order)
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

// Covers: SEMANTICS 36
#[test]
fn the_order_of_events_shows_in_nothing() {
    run(|world, other, events, order| {
        let text = manifests::text(world);
        let objects = load(&text).objects;
        let others = load(&manifests::text(other)).objects;
        let mut fresh = offline(&text);
        attach(&mut fresh, world);

        let mut model = offline("");
        attach(&mut model, world);
        let mut compiler = Compiler::default();
        let of = |all: &[Object], number: usize| all[number % all.len()].clone();
        for event in events {
            match event {
                Event::Apply(number) => model.apply(of(&objects, *number)),
                Event::ApplyOther(number) => model.apply(of(&others, *number)),
                Event::Delete(number) => model.delete(&of(&objects, *number).key()),
                Event::DeleteOther(number) => model.delete(&of(&others, *number).key()),
                Event::Replace => model.replace(objects.clone()),
                Event::ReplaceByOthers => model.replace(others.clone()),
            }
            // What it remembers of the way must not show either.
            compiler.compile(&model);
        }
        let keys: Vec<_> = objects.iter().map(Object::key).collect();
        for object in others.iter().filter(|object| !keys.contains(&object.key())) {
            model.delete(&object.key());
        }
        // Some of them twice.
        let shuffled = order.iter().chain(order.iter().step_by(5));
        for number in shuffled.filter(|number| **number < objects.len()) {
            model.apply(objects[*number].clone());
        }
        same(&model, &fresh)?;
        let compiled = compiler.compile(&model);
        states(world, &compiled.state, &questions)
            .map_err(|difference| TestCaseError::fail(format!("after events: {difference}\n{text}")))?;
        Ok(())
    });
}

// Covers: SEMANTICS 36
#[test]
fn the_order_of_edits_to_manifests_shows_in_nothing() {
    run(|world, other, events, order| {
        let text = manifests::text(world);
        let mut fresh = offline(&text);
        attach(&mut fresh, world);
        let objects: Vec<(PathBuf, Vec<u8>)> = manifests::objects(world).iter().map(file).collect();
        let others: Vec<(PathBuf, Vec<u8>)> = manifests::objects(other).iter().map(file).collect();

        let mut model = offline("");
        attach(&mut model, world);
        let (mut loader, mut store) = (Loader::default(), Store::default());
        let mut directory = Texts::new();
        let mut load = |directory: &Texts| {
            let view = store.update(&loader.load(directory.clone()));
            model.replace(convert(&view).objects);
        };
        for event in events {
            let of = |all: &[(PathBuf, Vec<u8>)], number: usize| all[number % all.len()].clone();
            match event {
                Event::Apply(number) => directory.extend([of(&objects, *number)]),
                Event::ApplyOther(number) => directory.extend([of(&others, *number)]),
                Event::Delete(number) => drop(directory.remove(&of(&objects, *number).0)),
                Event::DeleteOther(number) => drop(directory.remove(&of(&others, *number).0)),
                Event::Replace => directory = objects.iter().cloned().collect(),
                Event::ReplaceByOthers => directory = others.iter().cloned().collect(),
            }
            load(&directory);
        }
        let files: BTreeMap<_, _> = objects.iter().cloned().collect();
        directory.retain(|path, _| files.contains_key(path));
        for number in order.iter().filter(|number| **number < objects.len()) {
            directory.extend([objects[*number].clone()]);
            if number % 4 == 0 {
                load(&directory);
            }
        }
        load(&directory);
        same(&model, &fresh)
    });
}

/// A file of its own for each object, by its name.
fn file(object: &Value) -> (PathBuf, Vec<u8>) {
    let word = |value: &Value| value.as_str().unwrap_or("default").to_owned();
    let meta = &object["metadata"];
    let path = [&object["kind"], &meta["namespace"], &meta["name"]]
        .map(word)
        .join("_");
    (
        PathBuf::from(path + ".yaml"),
        manifests::yaml(object).into_bytes(),
    )
}

fn same(model: &world::World, fresh: &world::World) -> Result<(), TestCaseError> {
    prop_assert_eq!(model, fresh);
    let compiled = |world| compile(world, &mut Numbers::default());
    prop_assert_eq!(compiled(model), compiled(fresh));
    Ok(())
}
