//! What only real traffic on real interfaces shows: every way that a packet takes on a flannel node, attackers inside
//! pods, and nodes that are not as they should be.

mod attacks;
mod foreign;
mod frames;
mod matrix;
mod surroundings;
mod world;

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use vethwall_tests::lab::{Lab, Options};

/// A lab that is taken down when the test ends, however it ends.
struct Guard(Lab);

impl Drop for Guard {
    fn drop(&mut self) {
        Lab::down(&self.0.state.name).expect("down");
    }
}

fn up(name: &str, directory: &Path, change: impl FnOnce(&mut Options)) -> Result<Guard> {
    let mut options = Options::new(&format!("{name}-{}", std::process::id()), directory);
    change(&mut options);
    let (lab, applied) = Lab::up(&options, &mut |_| {}).with_context(|| options.name.clone())?;
    let guard = Guard(lab);
    ensure!(applied.complete(), "{applied:?}");
    Ok(guard)
}

/// Runs a command at a target; its standard output, or an error with all it said.
fn said(lab: &Lab, target: &str, command: Command) -> Result<String> {
    let what = format!("{command:?}");
    let output = lab.target(target)?.output(command)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{what} at {target}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

/// A command from its words.
fn words(command: &str) -> Result<Command> {
    let mut words = command.split_whitespace();
    let mut found = Lab::command(words.next().context("a command")?)?;
    found.args(words);
    Ok(found)
}
