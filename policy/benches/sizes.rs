//! How much there is to hold for a world: entries of the kernel's maps with their bytes, and bytes of heap.
//!
//! Heap is what was asked of the allocator and not given back; an allocator itself takes a tenth more or so. *World*
//! holds the objects, *compiler* what a compilation leaves to the next, *result* what the agent keeps of it: the desired
//! state and what cookies and identities mean. *Writes* are the operations of the plan that brings a change of one object
//! into the maps.

mod worlds;

use std::{alloc::System, collections::BTreeSet, mem::size_of};

use cap::Cap;
use vethwall_common::{
    address::{Addr, Prefix},
    endpoint::EndpointRecord,
    identity::{AddressEntry, PrefixEntry},
    verdict::{PortsKey, PortsPage, SlotRecord, VerdictEntry, VerdictKey},
};
use vethwall_policy::{
    compile::Compiler,
    plan::{Operation, plan},
    state::State,
};
use worlds::{Change, Parts, SCALES};

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

fn main() {
    println!(
        "| world | endpoints | slots | identities | verdict entries | port pages | addresses | prefixes | in maps |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let (mut heap, mut writes) = (Vec::new(), Vec::new());
    for scale in SCALES {
        let parts = scale.parts();
        let before = HEAP.allocated();
        let world = parts.world();
        let of_world = HEAP.allocated() - before;
        let mut compiler = Compiler::default();
        let compiled = compiler.compile(&world);
        let of_all = HEAP.allocated() - before;
        compiler.release(&compiled.state);
        let state = &compiled.state;
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            scale.name,
            state.endpoints.len(),
            state.slots.len(),
            identities(state),
            state.verdicts.len(),
            state.ports.len(),
            state.addresses.len(),
            state.prefixes.len(),
            kilobytes(in_maps(state)),
        );
        assert!(compiled.problems.is_empty(), "{:?}", compiled.problems);
        drop(compiled);
        let kept = HEAP.allocated() - before;
        heap.push((scale.name, of_world, kept - of_world, of_all - kept, of_all));
        writes.extend(writes_of(scale.name, &parts));
    }
    println!();
    println!("| world | world | compiler | result | together |");
    println!("|---|---|---|---|---|");
    for (name, world, compiler, result, all) in heap {
        let [world, compiler, result, all] = [world, compiler, result, all].map(megabytes);
        println!("| {name} | {world} | {compiler} | {result} | {all} |");
    }
    println!();
    println!("| world | change | writes |");
    println!("|---|---|---|");
    for (name, change, writes) in writes {
        println!("| {name} | {change} | {writes} |");
    }
}

fn writes_of(name: &'static str, parts: &Parts) -> Vec<(&'static str, &'static str, usize)> {
    let mut world = parts.world();
    let mut compiler = Compiler::default();
    let before = compiler.compile(&world).state;
    let mut of = |change: &Change| {
        change.event(0).happen(&mut world);
        let steps = plan(&before, &compiler.compile(&world).state);
        change.event(1).happen(&mut world);
        let writes = steps.iter().filter(|step| step.operation != Operation::Grace);
        (name, change.name, writes.count())
    };
    parts.changes.iter().map(&mut of).collect()
}

fn identities(state: &State) -> usize {
    let addresses = state.addresses.values().map(|entry| entry.identity);
    let prefixes = state.prefixes.values().map(|entry| entry.identity);
    addresses.chain(prefixes).collect::<BTreeSet<_>>().len()
}

/// Keys and values; the kernel adds its own to each.
fn in_maps(state: &State) -> usize {
    state.endpoints.len() * size_of::<EndpointRecord>()
        + state.slots.len() * size_of::<SlotRecord>()
        + state.verdicts.len() * (size_of::<VerdictKey>() + size_of::<VerdictEntry>())
        + state.ports.len() * (size_of::<PortsKey>() + size_of::<PortsPage>())
        + state.addresses.len() * (size_of::<Addr>() + size_of::<AddressEntry>())
        + state.prefixes.len() * (size_of::<Prefix>() + size_of::<PrefixEntry>())
}

fn kilobytes(bytes: usize) -> String {
    format!("{} kB", bytes.div_ceil(1_000))
}

fn megabytes(bytes: usize) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}
