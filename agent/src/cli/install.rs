//! `vethwall install` and `vethwall uninstall`.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use serde::Serialize;
use vethwall_datapath::Pins;

use super::{
    Exit, Failure, Global, Output, Streams,
    fleet::{self, Where},
    node::{NodeArgs, places},
    text::{count, escape, json_line},
};
use crate::{
    api::{self, Request, Response, status::Phase},
    chain::{binary, places::Places, removal},
    cri::Client,
    sockets,
};

/// How long an agent may take to let go: it looks every two seconds, and a detachment waits for the kernel.
const AGENT_PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);
/// Between two looks at what still names the plugin.
const LOOK: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
#[command(after_help = "\
Puts the plugin into the runtime's directory of plugins, and ends an earlier uninstall. Nothing is
enforced by that: the agent does the rest.

Exit status: 0 done, 1 not.

Examples:
  vethwall install --plugin ./vethwall-cni
  vethwall install --plugin ./vethwall-cni --cni-bin-dir /opt/cni/bin")]
pub(crate) struct InstallArgs {
    /// The plugin's program.
    #[arg(long, value_name = "FILE")]
    plugin: PathBuf,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Takes vethwall off this node, and leaves flannel as it was: first no network list names the plugin
any more, then the programs are taken off the pods' interfaces, which are not interrupted. The
plugin itself stays, and does nothing, until no pod is left that started with it: its runtime may
call it once more to take such a pod down. Interrupted, run it again.

Exit status: 0 done, 1 something could not be undone, 2 a directory is not there, 3 done, but the
plugin is still named.

Examples:
  vethwall uninstall                    the plugin stays
  vethwall uninstall --purge            the plugin goes too, if nobody names it
  kubectl vethwall uninstall            all nodes, before: helm uninstall vethwall
  vethwall uninstall --purge --wait     ... and is waited for until nobody does")]
pub(crate) struct UninstallArgs {
    /// Remove the plugin too, once no pod's cached result names it.
    #[arg(long)]
    purge: bool,
    /// Wait until no pod's cached result names the plugin.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    place: Where,
}

/// What became of it, for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Removed {
    unreadable: Vec<String>,
    named_by: Vec<String>,
    plugin: &'static str,
}

fn failed(error: &anyhow::Error) -> Failure {
    Failure::Agent(escape(&format!("{error:#}")).into_owned())
}

pub(crate) fn install(args: InstallArgs, streams: &mut Streams<'_>) -> Result<Exit, Failure> {
    let places = places(&args.node.config()?, false);
    binary::install(&args.plugin, &places.bin)
        .and_then(|_| binary::revive(&places.bin))
        .map_err(|error| failed(&error))?;
    writeln!(
        streams.out,
        "{} is installed",
        binary::path(&places.bin).display()
    )?;
    Ok(Exit::Yes)
}

pub(crate) fn uninstall(
    args: UninstallArgs,
    global: &Global,
    streams: &mut Streams<'_>,
) -> Result<Exit, Failure> {
    let UninstallArgs {
        purge,
        wait,
        node,
        place,
    } = args;
    if let Some(target) = place.target() {
        if purge || wait {
            return Err(Failure::Usage(
                "--purge and --wait are for one node; a cluster's nodes only let go".to_owned(),
            ));
        }
        return fleet::uninstall(&target, global, streams);
    }
    let config = node.config()?;
    let places = places(&config, false);
    for (directory, flag) in [(&places.conf, "--cni-conf-dir"), (&places.bin, "--cni-bin-dir")] {
        if !directory.is_dir() {
            return Err(Failure::Usage(format!(
                "{} is no directory, and nothing was changed; name the runtime's with: {flag} DIR",
                directory.display()
            )));
        }
    }
    let mut say = |text: &str| writeln!(streams.err, "{text}");
    say("the plugin is told to let pods pass")?;
    removal::retire(&places.bin).map_err(|error| failed(&error))?;
    say(&format!(
        "network lists in {}: our entries go",
        places.conf.display()
    ))?;
    let unreadable = removal::unchain(&places.conf).map_err(|error| failed(&error.into()))?;
    let mut runtime = Client::new(config.cri_socket)?;
    if !removal::is_read(&places.conf, &mut runtime).map_err(|error| failed(&error.into()))? {
        say("the runtime has not read its directory and goes on to call the plugin, which lets pods pass")?;
    }
    if agent_answers(global) {
        say("the agent takes its programs off")?;
        wait_for_agent(global, &places)?;
    } else {
        say("no agent answers; its programs are taken off")?;
        removal::finish(&places, &Pins::new(config.bpffs)).map_err(|error| failed(&error))?;
        sockets::forget(&global.run_dir).map_err(|error| failed(&error))?;
    }
    let named_by = named_by(&config.cni_cache, wait, &mut say)?;
    let gone = purge && named_by.is_empty() && unreadable.is_empty();
    if gone {
        removal::remove_plugin(&places.bin).map_err(|error| failed(&error.into()))?;
    }
    let plugin = if gone || !binary::path(&places.bin).exists() {
        "removed"
    } else {
        "retired"
    };
    let exit = if !unreadable.is_empty() {
        Exit::No
    } else if purge && !gone {
        Exit::Undecided
    } else {
        Exit::Yes
    };
    let removed = Removed {
        unreadable,
        named_by,
        plugin,
    };
    let text = match global.output {
        Output::Json => json_line(&removed)?,
        Output::Table => render(&removed, &places, purge),
    };
    streams.out.write_all(text.as_bytes())?;
    Ok(exit)
}

fn render(removed: &Removed, places: &Places, purge: bool) -> String {
    let mut text = String::new();
    for why in &removed.unreadable {
        text.push_str(&format!(
            "A network list can not be read and may still name the plugin; mend or remove it: {}\n",
            escape(why)
        ));
    }
    text.push_str("Nothing is enforced on this node any more.\n");
    let plugin = binary::path(&places.bin);
    match (removed.plugin, removed.named_by.len()) {
        ("removed", _) => text.push_str("The plugin is gone.\n"),
        (_, 0) if purge => text.push_str(&format!("{} stays until the list is mended.\n", plugin.display())),
        (_, 0) => text.push_str(&format!(
            "{} stays and does nothing. Nobody names it; remove it with: vethwall uninstall --purge\n",
            plugin.display()
        )),
        (_, n) => text.push_str(&format!(
            "{} stays and does nothing: {} started with it. Remove it when they are gone with: vethwall uninstall --purge --wait\n",
            plugin.display(),
            count(n, "pod", "pods")
        )),
    }
    text
}

fn phase(global: &Global) -> Option<Phase> {
    match api::Client::ask_one(&global.run_dir, Request::Status) {
        Ok(Response::Status(status)) => Some(status.phase),
        Ok(_) | Err(_) => None,
    }
}

fn agent_answers(global: &Global) -> bool {
    phase(global).is_some()
}

/// The agent sees the mark within two seconds. One that ends meanwhile leaves the rest to us, in the next run.
fn wait_for_agent(global: &Global, places: &Places) -> Result<(), Failure> {
    let deadline = Instant::now() + AGENT_PATIENCE;
    loop {
        match phase(global) {
            Some(Phase::Removed) => return Ok(()),
            Some(_) if Instant::now() < deadline => thread::sleep(PAUSE),
            Some(_) => {
                return Err(Failure::Agent(format!(
                    "the agent did not take its programs off within {} s. Does it look at {} too (its --cni-bin-dir, and a --chain \
                     other than off)? Stop it, and run this again",
                    AGENT_PATIENCE.as_secs(),
                    places.bin.display()
                )));
            }
            None => {
                return Err(Failure::Agent(
                    "the agent ended meanwhile; run this again".to_owned(),
                ));
            }
        }
    }
}

fn named_by(
    cache: &Path,
    wait: bool,
    say: &mut impl FnMut(&str) -> std::io::Result<()>,
) -> Result<Vec<String>, Failure> {
    let mut told = usize::MAX;
    loop {
        let naming = removal::naming_us(cache)
            .map_err(|error| Failure::Agent(format!("can not read {}: {error}", cache.display())))?;
        if naming.is_empty() || !wait {
            return Ok(naming);
        }
        if naming.len() != told {
            say(&format!(
                "waiting for {} that started with the plugin",
                count(naming.len(), "pod", "pods")
            ))?;
            told = naming.len();
        }
        thread::sleep(LOOK);
    }
}
