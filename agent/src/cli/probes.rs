//! `vethwall explain --probes`: a policy test for anyone's CI.
//!
//! ```text
//! lines ─ all of them ─► probes ─ each ─► answer ─► stdout, at once
//!   └─ one is wrong: nothing is answered      └─ not as expected ─► stderr, at the end
//! ```

mod input;
mod table;

use std::{
    fs::File,
    io::{self, BufReader},
    path::Path,
};

use vethwall_policy::world::World;

use self::input::Probe;
use super::{
    Exit, Failure, Global, Output, Streams,
    offline::Manifests,
    peer::check_families,
    status,
    text::{bad, count, escape, json_line, paint},
};
use crate::api::{
    Client, ClientError, ErrorCode, Explanation, Request, Response,
    explain::{self, Answered, ProbeAnswer, ProbeVerdict},
};

/// So many wrong lines, or differences, are told one by one.
const TOLD: usize = 50;

/// Who answers.
enum Judge<'a> {
    /// A directory of manifests.
    World(&'a World),
    /// The agent of this node.
    Agent(&'a Global),
}

/// Answers all probes of a file; `-` is stdin.
pub(super) fn run(
    file: &Path,
    manifests: Option<&Path>,
    global: &Global,
    streams: &mut Streams<'_>,
) -> Result<Exit, Failure> {
    let shown = match file.to_str() {
        Some("-") => "stdin".to_owned(),
        Some(_) | None => escape(&file.display().to_string()).into_owned(),
    };
    let probes = read(file, &shown)?;
    let loaded = match manifests {
        Some(directory) => {
            let loaded = Manifests::load(directory, streams)?;
            loaded.readable()?;
            Some(loaded)
        }
        None => None,
    };
    let judge = match &loaded {
        Some(loaded) => Judge::World(&loaded.world),
        None => Judge::Agent(global),
    };
    let mut report = Report::new(&probes, global.output, shown, streams);
    for probe in &probes {
        let told = judge.answer(probe)?;
        let fix = match &told {
            Ok(explanation)
                if probe.expect == Some(ProbeVerdict::Allowed)
                    && !explanation.passes()
                    && report.differences.len() < TOLD =>
            {
                judge.fix(probe, explanation)
            }
            Ok(_) | Err(_) => None,
        };
        report.add(probe, &told, fix)?;
    }
    report.end()
}

fn read(file: &Path, shown: &str) -> Result<Vec<Probe>, Failure> {
    let unreadable = |e: io::Error| Failure::Undecided(format!("can not read the probes in {shown}: {e}"));
    let read = if file.as_os_str() == "-" {
        input::read(io::stdin().lock())
    } else {
        File::open(file).and_then(|file| input::read(BufReader::new(file)))
    };
    let example = "A line is one JSON object: \
        {\"from\":\"shop/web\",\"to\":\"shop/db\",\"port\":5432,\"protocol\":\"TCP\",\"expect\":\"allowed\"}";
    match read.map_err(unreadable)? {
        Ok(probes) if probes.is_empty() => {
            Err(Failure::Usage(format!("there is no probe in {shown}\n{example}")))
        }
        Ok(probes) => Ok(probes),
        Err(wrong) => {
            let lines = count(wrong.len(), "line", "lines");
            let mut message = format!("nothing was answered: {lines} of {shown} can not be understood");
            for line in wrong.iter().take(TOLD) {
                message.push_str(&format!(
                    "\n  {shown}:{}:{}: {}",
                    line.line,
                    line.column,
                    escape(&line.message)
                ));
            }
            if wrong.len() > TOLD {
                message.push_str(&format!("\n  and {} more", wrong.len() - TOLD));
            }
            Err(Failure::Usage(format!("{message}\n{example}")))
        }
    }
}

impl Judge<'_> {
    /// An agent's answer has it; of a directory it is looked for only where somebody reads it.
    fn fix(&self, probe: &Probe, told: &Explanation) -> Option<String> {
        match self {
            Self::World(world) => fixes(&explain::answer(world, &probe.request).ok()?),
            Self::Agent(_) => fixes(told),
        }
    }

    /// The inner error is of this probe alone.
    fn answer(&self, probe: &Probe) -> Result<Result<Explanation, String>, Failure> {
        if let Err(message) = check_families(&probe.request) {
            return Ok(Err(message));
        }
        match self {
            Self::World(world) => Ok(explain::brief(world, &probe.request).map_err(|error| error.message)),
            Self::Agent(global) => {
                match Client::ask_one(&global.run_dir, Request::Explain(probe.request.clone())) {
                    Ok(Response::Explanation(explanation)) => Ok(Ok(*explanation)),
                    Ok(response) => Err(status::unexpected(global, &response).into()),
                    Err(ClientError::Refused(body)) if body.code == ErrorCode::UnknownPod => {
                        Ok(Err(body.message))
                    }
                    Err(error) => Err(error.into()),
                }
            }
        }
    }
}

/// What would make it pass, of the sides that deny it.
fn fixes(explanation: &Explanation) -> Option<String> {
    let sides = [&explanation.egress, &explanation.ingress];
    let fixes: Vec<&str> = sides.into_iter().filter_map(|side| side.fix.as_deref()).collect();
    (!fixes.is_empty()).then(|| fixes.join("; and "))
}

/// What is printed, and how the command ends.
struct Report<'a, 's> {
    output: Output,
    file: String,
    streams: &'a mut Streams<'s>,
    table: table::Table,
    /// Nobody reads the answers any more; the exit status still counts.
    deaf: bool,
    total: table::Total,
    differences: Vec<String>,
}

impl<'a, 's> Report<'a, 's> {
    fn new(probes: &[Probe], output: Output, file: String, streams: &'a mut Streams<'s>) -> Self {
        Self {
            output,
            file,
            streams,
            table: table::Table::new(probes),
            deaf: false,
            total: table::Total::default(),
            differences: Vec::new(),
        }
    }

    fn add(
        &mut self,
        probe: &Probe,
        told: &Result<Explanation, String>,
        fix: Option<String>,
    ) -> Result<(), Failure> {
        let (answer, error) = match told {
            Ok(explanation) => (Some(Box::new(Answered::from(explanation))), None),
            Err(error) => (None, Some(error.clone())),
        };
        let verdict = answer.as_ref().map(|answer| answer.verdict);
        let ok = probe.expect.zip(verdict).map(|(expect, is)| expect == is);
        self.total.add(verdict, ok);
        if let (Some(false), Some(expect), Some(is), Ok(explanation)) = (ok, probe.expect, verdict, told)
            && self.differences.len() < TOLD
        {
            let mut difference = format!(
                "{}:{}: {} is {}, expected {}: {}",
                self.file,
                probe.line,
                table::subject(probe),
                is.name(),
                expect.name(),
                table::why(explanation),
            );
            if let Some(fix) = fix {
                difference.push_str(&format!("; fix: {fix}"));
            }
            self.differences.push(difference);
        }
        let text = match self.output {
            Output::Table => self.table.row(probe, told, ok),
            Output::Json => json_line(&ProbeAnswer {
                from: probe.from.clone(),
                to: probe.to.clone(),
                port: probe.port,
                protocol: probe.protocol.clone(),
                answer,
                error,
                expect: probe.expect,
                ok,
                notes: probe.notes.clone(),
            })?,
        };
        self.write(&text)
    }

    /// Without a reader it goes on: whether all is as expected is asked for by the exit status.
    fn write(&mut self, text: &str) -> Result<(), Failure> {
        if self.deaf {
            return Ok(());
        }
        match self.streams.out.write_all(text.as_bytes()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                self.deaf = true;
                Ok(())
            }
            result => result.map_err(Failure::from),
        }
    }

    fn end(mut self) -> Result<Exit, Failure> {
        if self.output == Output::Table {
            let summary = format!("\n{}\n", self.total.summary());
            self.write(&summary)?;
        }
        if !self.deaf {
            match self.streams.out.flush() {
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
                result => result?,
            }
        }
        let mark = paint("different:", bad());
        for difference in &self.differences {
            writeln!(self.streams.err, "{mark} {}", escape(difference))?;
        }
        let more = self.total.different.saturating_sub(self.differences.len());
        if more > 0 {
            writeln!(self.streams.err, "{mark} and {more} more")?;
        }
        Ok(if self.total.undecided > 0 {
            Exit::Undecided
        } else if self.total.different > 0 {
            Exit::No
        } else {
            Exit::Yes
        })
    }
}
