//! The verbs.

use std::{
    io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use vethwall_common::endpoint::EndpointRecord;
use vethwall_datapath::{
    Endpoints, Error as DatapathError, Hook, Pins, attach,
    surroundings::{self, Presence},
    veth::{self, HostVeth},
};

use crate::{
    client, code,
    error::CniError,
    input::{Command, Config, Environment, NEWEST, VERSIONS, command},
    proto::{self, AddRequest, DelRequest, Request, Response},
};

/// How long an ADD waits for the agent's answer. Runtimes hold a lock across it that a longer wait would hold for the whole node;
/// the process ends after 8 s in any case.
const ADD_TIME: Duration = Duration::from_millis(7500);
/// How long an ADD waits for an agent that is not there: enough for one that restarts.
const AGENT_TIME: Duration = Duration::from_secs(2);
/// All that a DEL gives the agent.
const DEL_TIME: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(50);

/// What goes to standard output, and how the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The result or the error, or nothing.
    pub output: Vec<u8>,
    /// Exit status 0.
    pub success: bool,
}

/// Carries out one call of the plugin.
pub fn run(verb: Option<&str>, environment: &Environment, stdin: &[u8]) -> Outcome {
    let parsed = Config::parse(stdin);
    let version = match &parsed {
        Ok(config) => config.cni_version.clone(),
        Err(_) => NEWEST.to_owned(),
    };
    let outcome = command(verb).and_then(|command| match command {
        Command::Version => Ok(versions()),
        // Nothing of ours is on the node any more: the chain goes on as it would without us.
        Command::Add if environment.retired => {
            parsed?.result().map(|result| result.get().as_bytes().to_vec())
        }
        Command::Del | Command::Gc | Command::Check | Command::Status if environment.retired => {
            Ok(Vec::new())
        }
        Command::Del => {
            del(&parsed.unwrap_or_default(), environment);
            Ok(Vec::new())
        }
        Command::Gc => {
            collect_garbage(&parsed.unwrap_or_default());
            Ok(Vec::new())
        }
        Command::Add => add(&parsed?, environment),
        Command::Check => check(&parsed?, environment).map(|()| Vec::new()),
        Command::Status => status(&parsed?).map(|()| Vec::new()),
    });
    match outcome {
        Ok(output) => Outcome {
            output,
            success: true,
        },
        Err(error) => Outcome {
            output: error.to_json(&version).into_bytes(),
            success: false,
        },
    }
}

fn versions() -> Vec<u8> {
    serde_json::json!({ "cniVersion": NEWEST, "supportedVersions": VERSIONS })
        .to_string()
        .into_bytes()
}

fn add(config: &Config<'_>, environment: &Environment) -> Result<Vec<u8>, CniError> {
    let start = Instant::now();
    environment.check()?;
    config.check_version()?;
    let result = config.result()?;
    let veth = find_veth(environment)?;
    let request = add_request(environment, &veth)?;
    let agent_deadline = start + AGENT_TIME;
    let outcome = attach_pending(config, &veth, agent_deadline)
        .and_then(|()| ask_agent(config, &request, agent_deadline, start + ADD_TIME));
    match outcome {
        Err(Refused::NoAgent(why)) if config.fails_open(environment.argument("K8S_POD_NAMESPACE")) => {
            open(config, &veth, &why)?;
        }
        Err(Refused::NoAgent(why)) => return Err(not_ready(why)),
        Err(Refused::Because(error)) => return Err(error),
        Ok(()) => {}
    }
    Ok(result.get().as_bytes().to_vec())
}

/// Why a pod is not enforced. Only the first may open the pod of a namespace that is listed for it: what it is for is a node
/// whose agent is away. An agent that answers knows better, and what is wrong with the pod or the node itself stays wrong.
enum Refused {
    /// Nothing is loaded, nobody listens, or no answer came that makes sense.
    NoAgent(String),
    /// Anything else.
    Because(CniError),
}

/// Lets the pod go without enforcement: what is attached drops everything. The agent finds it when it is back.
fn open(config: &Config<'_>, veth: &HostVeth, why: &str) -> Result<(), CniError> {
    attach::detach_endpoint(&Pins::new(&config.bpffs), veth.ifindex, &veth.name).map_err(|error| {
        let msg = format!(
            "vethwall: cannot open {} although its namespace fails open",
            veth.name
        );
        CniError::new(code::IO, msg).because(error.chain())
    })?;
    // For whoever runs the plugin by hand; a runtime shows it only where the plugin prints nothing else.
    eprintln!(
        "vethwall: {} is not enforced until the node agent is back ({why})",
        veth.name
    );
    Ok(())
}

fn find_veth(environment: &Environment) -> Result<HostVeth, CniError> {
    let missing = |name: &str| CniError::new(code::ENVIRONMENT, format!("vethwall: {name} is not set"));
    let netns = environment.netns.as_deref().ok_or_else(|| missing("CNI_NETNS"))?;
    if environment.ifname.is_empty() {
        return Err(missing("CNI_IFNAME"));
    }
    veth::find(netns, &environment.ifname).map_err(|error| {
        let absent = matches!(&error, DatapathError::System { source, .. } if source.kind() == io::ErrorKind::NotFound);
        let code = if matches!(error, DatapathError::NotVeth { .. }) {
            code::CONFIG
        } else if absent {
            code::ENVIRONMENT
        } else {
            code::IO
        };
        CniError::new(
            code,
            "vethwall: cannot find the host's end of the pod's interface",
        )
        .because(error.chain())
    })
}

fn add_request(environment: &Environment, veth: &HostVeth) -> Result<Request, CniError> {
    let required = |name: &'static str, value: &str| {
        if value.is_empty() {
            let msg = format!("vethwall: the runtime did not say {name}; only pods can be wired");
            return Err(CniError::new(code::ENVIRONMENT, msg));
        }
        Ok(value.to_owned())
    };
    Ok(Request::Add(AddRequest {
        container_id: required("CNI_CONTAINERID", &environment.container_id)?,
        ifname: environment.ifname.clone(),
        namespace: required("K8S_POD_NAMESPACE", environment.argument("K8S_POD_NAMESPACE"))?,
        pod: required("K8S_POD_NAME", environment.argument("K8S_POD_NAME"))?,
        uid: environment.argument("K8S_POD_UID").to_owned(),
        ifindex: veth.ifindex,
        host_ifname: veth.name.clone(),
        mac: veth.mac,
        addresses: veth.addresses.clone(),
    }))
}

/// Attaches the programs with nothing behind them: from here on the pod is closed until the agent has spoken.
fn attach_pending(config: &Config<'_>, veth: &HostVeth, deadline: Instant) -> Result<(), Refused> {
    let pins = Pins::new(&config.bpffs);
    loop {
        match forget_predecessor(&pins, veth)
            .and_then(|()| attach::close_endpoint(&pins, veth.ifindex, &veth.name, config.hook))
        {
            Ok(_) => return Ok(()),
            // A node that boots: the agent loads the programs.
            Err(error @ DatapathError::NotLoaded { .. }) => {
                if Instant::now() + PAUSE >= deadline {
                    return Err(Refused::NoAgent(error.chain()));
                }
                thread::sleep(PAUSE);
            }
            Err(error) => {
                let msg = format!("vethwall: cannot attach to {}", veth.name);
                let error = CniError::new(code::IO, msg).because(error.chain());
                return Err(Refused::Because(error));
            }
        }
    }
}

/// Clears the record of an earlier interface with the same number, which would let its pod's traffic through.
fn forget_predecessor(pins: &Pins, veth: &HostVeth) -> Result<(), DatapathError> {
    let mut endpoints = Endpoints::open(pins)?;
    let ours = |record: &EndpointRecord| record.mac == veth.mac;
    match endpoints.get(veth.ifindex)? {
        // Called twice for one pod: what the agent wrote is about this pod.
        Some(record) if ours(&record) => Ok(()),
        Some(_) => endpoints.delete(veth.ifindex).map(drop),
        None => Ok(()),
    }
}

fn ask_agent(
    config: &Config<'_>,
    request: &Request,
    agent_deadline: Instant,
    deadline: Instant,
) -> Result<(), Refused> {
    let socket = proto::socket(&config.run_dir);
    loop {
        match client::ask(&socket, request, deadline) {
            Ok(Response::Done { ok: true, .. }) => return Ok(()),
            Ok(Response::Done { ok: false, .. }) => {
                return Err(Refused::Because(not_ready("the agent said no and not why")));
            }
            Ok(Response::Failed { error }) => {
                return Err(Refused::Because(CniError::new(error.code.max(1), error.message)));
            }
            // Gone while it worked on the request, for instance to be replaced by its successor: ask that one.
            Err(error @ (client::Error::Absent { .. } | client::Error::Io(_))) => {
                if Instant::now() + PAUSE >= agent_deadline {
                    return Err(Refused::NoAgent(error.to_string()));
                }
                thread::sleep(PAUSE);
            }
            Err(error @ (client::Error::Timeout | client::Error::Answer(_))) => {
                return Err(Refused::NoAgent(error.to_string()));
            }
        }
    }
}

fn not_ready(details: impl ToString) -> CniError {
    CniError::new(
        code::TRY_LATER,
        "vethwall: the node agent is not ready; the pod's start is delayed so that it cannot run without its \
         NetworkPolicies (is the vethwall agent running on this node?)",
    )
    .because(details)
}

/// The links stay: the interface is about to be deleted by the plugin that made it, and until then the pod remains
/// enforced. Links of interfaces that are gone are collected.
fn del(config: &Config<'_>, environment: &Environment) {
    let request = Request::Del(DelRequest {
        container_id: environment.container_id.clone(),
        ifname: environment.ifname.clone(),
    });
    let socket = proto::socket(&config.run_dir);
    // Without the agent: it looks for pods that are gone when it starts.
    let _best_effort = client::ask(&socket, &request, Instant::now() + DEL_TIME);
    collect_garbage(config);
}

fn collect_garbage(config: &Config<'_>) {
    let _best_effort = attach::collect_garbage(&Pins::new(&config.bpffs));
}

/// By what the kernel says, so that it needs no agent: a runtime may ask right after ADD (CRI-O does), while the pod's programs
/// move from filters to links.
fn check(config: &Config<'_>, environment: &Environment) -> Result<(), CniError> {
    environment.check()?;
    let veth = find_veth(environment)?;
    let pins = Pins::new(&config.bpffs);
    let failed = |details: String| {
        let msg = format!("vethwall: policy is not enforced on {}", veth.name);
        CniError::new(code::NOT_ENFORCED, msg).because(details)
    };
    match is_attached(&pins, veth.ifindex) {
        Ok(true) => {}
        // ADD has opened the pod; what failed then would fail now.
        Ok(false) | Err(DatapathError::NotLoaded { .. })
            if config.fails_open(environment.argument("K8S_POD_NAMESPACE")) && !answers(config) =>
        {
            return Ok(());
        }
        Ok(false) => return Err(failed("its programs are not attached".to_owned())),
        Err(error) => return Err(failed(error.chain())),
    }
    let record = Endpoints::open(&pins).and_then(|endpoints| endpoints.get(veth.ifindex));
    match record.map_err(|e| failed(e.chain()))? {
        Some(record) if record.flags & EndpointRecord::ENFORCING != 0 => Ok(()),
        _ => Err(failed("the pod waits for its policy".to_owned())),
    }
}

/// Whether both programs are on the pod's interface. Filters first: they go when the links that follow them are there, so a
/// pod that moves meanwhile is seen in one of the two.
fn is_attached(pins: &Pins, ifindex: u32) -> Result<bool, DatapathError> {
    for hook in [Hook::Clsact, Hook::Tcx] {
        if surroundings::endpoint(pins, ifindex, hook)? != Presence::Missing {
            return Ok(true);
        }
    }
    Ok(false)
}

fn answers(config: &Config<'_>) -> bool {
    let socket = proto::socket(&config.run_dir);
    client::ask(&socket, &Request::Status, Instant::now() + DEL_TIME).is_ok()
}

fn status(config: &Config<'_>) -> Result<(), CniError> {
    let unavailable = |details: String| {
        CniError::new(code::UNAVAILABLE, "vethwall: the node agent is not ready").because(details)
    };
    let socket = proto::socket(Path::new(&config.run_dir));
    match client::ask(&socket, &Request::Status, Instant::now() + DEL_TIME) {
        Ok(Response::Done { ok: true, .. }) => Ok(()),
        Ok(Response::Done { ok: false, .. }) => Err(unavailable("it said so".to_owned())),
        Ok(Response::Failed { error }) => Err(unavailable(error.message)),
        Err(error) => Err(unavailable(error.to_string())),
    }
}
