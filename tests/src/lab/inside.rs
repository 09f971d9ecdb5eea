//! Traffic and commands from inside: `probe` and `exec`.

use std::{collections::BTreeMap, path::Path, process::Command, thread};

use anyhow::{Context as _, Result, bail};

use super::{
    enter::Place,
    life::{Lab, program},
    probe::{self, Outcome, Probe, Source},
    prober::Hit,
};

impl Lab {
    /// Where a command for `NS/POD`, `node/NAME` or `outside` runs.
    pub fn target(&self, name: &str) -> Result<Place> {
        let place = match probe::source(&self.state, name)? {
            Source::Host(holder) => self.place(holder),
            Source::Pod(holder, netns) => Place {
                netns: Some(netns),
                ..self.place(holder)
            },
        };
        let namespace = self.state.pods.get(name).map(|pod| pod.namespace.clone());
        let resolver = namespace.map(|namespace| self.directory.join("resolv").join(namespace));
        Ok(Place { resolver, ..place })
    }

    /// A command that finds this workspace's programs first.
    pub fn command(program_name: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mut path = program("vethwall-lab")?
            .parent()
            .map(|parent| parent.as_os_str().to_owned())
            .unwrap_or_default();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()));
        // std looks in this process's PATH, not in the one that the command gets.
        let found = std::env::split_paths(&path)
            .map(|directory| directory.join(program_name.as_ref()))
            .find(|path| path.is_file());
        let named = Path::new(program_name.as_ref());
        let mut command = Command::new(if named.components().count() == 1 {
            found.unwrap_or_else(|| named.to_owned())
        } else {
            named.to_owned()
        });
        command.env("PATH", path);
        Ok(command)
    }

    /// Runs a command in a pod, on a node or on the outside host; standard input and output are this process's.
    pub fn exec(&self, target: &str, arguments: &[String]) -> Result<i32> {
        use std::os::unix::process::ExitStatusExt as _;
        let (first, rest) = arguments.split_first().context("no command")?;
        let mut command = Self::command(first)?;
        command.args(rest);
        let status = self.target(target)?.spawn(command)?.wait()?;
        Ok(status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
    }

    /// Sends all probes at once and says what came of each, in order.
    pub fn probe(&self, probes: &[Probe]) -> Result<Vec<Outcome>> {
        let plan = probe::plan(&self.state, probes)?;
        let helper = program("vethwall-lab")?;
        let hits = thread::scope(|scope| {
            let mut workers = Vec::new();
            for (source, shots) in &plan {
                let place = match source {
                    Source::Host(holder) => self.place(*holder),
                    Source::Pod(holder, netns) => Place {
                        netns: Some(netns.clone()),
                        ..self.place(*holder)
                    },
                };
                let mut command = Command::new(&helper);
                command.args(["internal", "prober"]);
                workers.push(scope.spawn(move || -> Result<Vec<Hit>> {
                    let lines: Vec<_> = shots
                        .iter()
                        .map(serde_json::to_string)
                        .collect::<Result<_, _>>()?;
                    let said = place.feed(command, &(lines.join("\n") + "\n"))?;
                    said.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
                }));
            }
            let mut hits = Vec::new();
            for worker in workers {
                hits.extend(worker.join().unwrap_or_else(|_| bail!("a thread panicked"))?);
            }
            anyhow::Ok(hits)
        })?;
        let mut by_index: BTreeMap<usize, Hit> = hits.into_iter().map(|hit| (hit.index, hit)).collect();
        probes
            .iter()
            .enumerate()
            .map(|(index, probe)| {
                let hit = by_index
                    .remove(&index)
                    .with_context(|| format!("no answer for probe {}", index + 1))?;
                let mut line = probe.line.clone();
                line.insert("result".into(), hit.result.clone().into());
                if hit.result == "error" {
                    line.insert("detail".into(), hit.detail.clone().into());
                }
                Ok(Outcome {
                    result: hit.result,
                    detail: hit.detail,
                    answer: hit.answer,
                    line,
                })
            })
            .collect()
    }
}
