//! What the verifier says of the programs, on kernels too that keep no account of it (before 5.16).
//!
//! The loader shows the verifier's log of a refusal only. Here each program is loaded once more against the pinned maps,
//! with a log that holds nothing but the statistics.

use std::{
    collections::{BTreeMap, HashSet},
    mem,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, Result};
use aya::maps::MapData;
use aya_obj::Object;
use vethwall_datapath::{Pins, object::OBJECT};

use super::raw;

/// Instructions that the verifier looked at on all paths, of every program in the object, whose maps must be pinned.
pub fn processed(pins: &Pins) -> Result<BTreeMap<String, u32>> {
    let mut object = Object::parse(OBJECT)?;
    let maps = mem::take(&mut object.maps);
    let mut data = Vec::new();
    for (name, map) in &maps {
        let pin = pins.map(name);
        // What a program needs only while it runs is not pinned.
        let map_data = if pin.exists() {
            MapData::from_pin(&pin)
        } else {
            MapData::create(map.clone(), name, None)
        };
        data.push((name, map_data.with_context(|| format!("open map {name}"))?, map));
    }
    let text: HashSet<_> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_maps(
        data.iter()
            .map(|(name, data, map)| (name.as_str(), data.fd().as_fd().as_raw_fd(), *map)),
        &text,
    )?;
    object.relocate_calls(&text)?;
    let mut counts = BTreeMap::new();
    for (name, program) in &object.programs {
        let function = object
            .functions
            .get(&program.function_key())
            .with_context(|| format!("{name} has no code"))?;
        let (_, log) =
            raw::load(&function.instructions, &program.license).with_context(|| format!("load {name}"))?;
        let count =
            number(&log).with_context(|| format!("no count in the verifier's log of {name}: {log}"))?;
        counts.insert(name.clone(), count);
    }
    Ok(counts)
}

/// From `processed 25419 insns (limit 1000000) ...`
fn number(log: &str) -> Option<u32> {
    let (_, rest) = log.rsplit_once("processed ")?;
    rest.split_once(" insns (")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_count_is_found_in_what_any_kernel_writes() {
        let old = "verification time 138599 usec\nstack depth 0\nprocessed 25419 insns (limit 1000000) max_states_per_insn 0\n";
        let new = "stack depth 0 max 0\ninsns processed 2\nprocessed 2 insns (limit 1000000) max_states_per_insn 0\n";
        assert_eq!(super::number(old), Some(25_419));
        assert_eq!(super::number(new), Some(2));
        assert_eq!(super::number("insns processed 2"), None);
    }
}
