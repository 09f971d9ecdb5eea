//! `vethwall flows`.

use std::net::IpAddr;

use clap::{Args, ValueEnum};
use vethwall_common::verdict::Reason;

use super::{
    Exit, Failure, Global, Output, Streams,
    fleet::{self, Where},
    status,
    text::{self, escape, faint, json_line, paint},
};
use crate::api::{
    Client, Direction, End, EndKind, Flow, FlowFilter, FlowRequest, Request, Response, Verdict,
};

/// How many of the history a follower sees first.
const BEFORE_FOLLOWING: usize = 10;

#[derive(Debug, Args)]
#[command(after_help = "\
A line is the final verdict of a new connection or of a dropped packet, seen from the pod whose
policy decided: a connection between two pods has one for the egress of the one and one for the
ingress of the other. Equal verdicts in quick succession are one line with a count (×12). Times are
UTC.

Exit status: 0, also when nothing matches; 3 no agent answers, or not all of a cluster.

Examples:
  vethwall flows --verdict denied --last 20             the last 20 denials
  vethwall flows -f --pod shop/web                      what web sends and gets, as it happens
  vethwall flows -f -n shop --verdict denied,audited -o json
  vethwall flows --to-pod shop/db --direction ingress
  kubectl vethwall flows -f --verdict denied           of all nodes")]
pub(crate) struct FlowsArgs {
    /// Go on with what happens, until interrupted.
    #[arg(short, long)]
    pub(super) follow: bool,
    /// At most the last N [default: all that is kept; with -f 10].
    #[arg(long, value_name = "N")]
    pub(super) last: Option<usize>,
    /// Only these verdicts: allowed, denied, audited.
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        value_delimiter = ',',
        value_name = "VERDICT,..."
    )]
    verdict: Vec<VerdictName>,
    /// Only where either end is this pod or address.
    #[arg(long, value_name = "[NS/]POD|IP")]
    pod: Option<String>,
    /// Only from this pod or address.
    #[arg(long, value_name = "[NS/]POD|IP")]
    from_pod: Option<String>,
    /// Only to this pod or address.
    #[arg(long, value_name = "[NS/]POD|IP")]
    to_pod: Option<String>,
    /// Only where either end is in this namespace.
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    /// Only where this side decided: ingress or egress.
    #[arg(long, alias = "traffic-direction", value_enum, hide_possible_values = true)]
    direction: Option<DirectionName>,
    #[command(flatten)]
    place: Where,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum VerdictName {
    Allowed,
    #[value(alias = "dropped")]
    Denied,
    Audited,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DirectionName {
    Ingress,
    Egress,
}

impl FlowsArgs {
    /// The same question as arguments, for the agents of other nodes.
    pub(super) fn words(&self) -> Vec<String> {
        let mut words = vec!["flows".to_owned()];
        if self.follow {
            words.push("--follow".to_owned());
        }
        let mut option = |name: &str, value: Option<String>| {
            words.extend(value.map(|value| format!("--{name}={value}")));
        };
        option("last", self.last.map(|last| last.to_string()));
        for verdict in &self.verdict {
            option(
                "verdict",
                verdict
                    .to_possible_value()
                    .map(|value| value.get_name().to_owned()),
            );
        }
        option("pod", self.pod.clone());
        option("from-pod", self.from_pod.clone());
        option("to-pod", self.to_pod.clone());
        option("namespace", self.namespace.clone());
        let direction = self.direction.and_then(|direction| direction.to_possible_value());
        option("direction", direction.map(|value| value.get_name().to_owned()));
        words
    }

    pub(super) fn request(self) -> FlowRequest {
        FlowRequest {
            follow: self.follow,
            last: self.last.or(self.follow.then_some(BEFORE_FOLLOWING)),
            filter: FlowFilter {
                verdicts: self
                    .verdict
                    .iter()
                    .map(|verdict| match verdict {
                        VerdictName::Allowed => Verdict::Allowed,
                        VerdictName::Denied => Verdict::Denied,
                        VerdictName::Audited => Verdict::Audited,
                    })
                    .collect(),
                namespace: self.namespace,
                pod: self.pod,
                from_pod: self.from_pod,
                to_pod: self.to_pod,
                direction: self.direction.map(|direction| match direction {
                    DirectionName::Ingress => Direction::Ingress,
                    DirectionName::Egress => Direction::Egress,
                }),
            },
        }
    }
}

pub(crate) fn run(args: FlowsArgs, global: &Global, streams: &mut Streams<'_>) -> Result<Exit, Failure> {
    if let Some(target) = args.place.target() {
        return fleet::flows(&args, &target, global, streams);
    }
    let request = args.request();
    let follow = request.follow;
    let mut shown = 0_u64;
    for response in Client::ask(&global.run_dir, Request::Flows(request))? {
        let response = response?;
        if let Response::Lost(lost) = response {
            streams.out.flush()?;
            let text = text::count(usize::try_from(lost.count).unwrap_or(usize::MAX), "flow", "flows");
            writeln!(streams.err, "{text} lost: more happened than could be read")?;
            continue;
        }
        let Response::Flow(flow) = response else {
            return Err(status::unexpected(global, &response).into());
        };
        shown += 1;
        let line = match global.output {
            Output::Json => json_line(&flow)?,
            Output::Table => render(&flow),
        };
        streams.out.write_all(line.as_bytes())?;
        if follow {
            // Each line when it happens, also into a pipe.
            streams.out.flush()?;
        }
    }
    if shown == 0 {
        writeln!(streams.err, "No flow of this node's history matches.")?;
    }
    Ok(Exit::Yes)
}

/// One line.
pub(super) fn render(flow: &Flow) -> String {
    let count = match flow.count {
        0 | 1 => String::new(),
        n => format!("  ×{n}"),
    };
    let icmp = flow
        .icmp
        .map(|icmp| format!(" type {} code {}", icmp.kind, icmp.code))
        .unwrap_or_default();
    format!(
        "{} {} {} -> {} {}{icmp}  {}  {}  {}{count}\n",
        paint(flow.time.strftime("%b %d %H:%M:%S%.3f"), faint()),
        paint(format!("[{}]", escape(&flow.node)), faint()),
        end(&flow.source),
        end(&flow.destination),
        escape(&flow.protocol),
        text::verdict(flow.verdict),
        flow.direction.name(),
        why(flow),
    )
}

fn end(end: &End) -> String {
    let port = end.port.map(|port| format!(":{port}")).unwrap_or_default();
    let address = match end.address {
        IpAddr::V6(address) if end.port.is_some() => format!("[{address}]"),
        IpAddr::V4(_) | IpAddr::V6(_) => end.address.to_string(),
    };
    let or = |name: &Option<String>| escape(name.as_deref().unwrap_or("?")).into_owned();
    match end.kind {
        EndKind::Pod => format!("{}/{}{port}", or(&end.namespace), or(&end.pod)),
        EndKind::Node => format!("{address}{port} (node {})", or(&end.node)),
        EndKind::Masqueraded => format!("{address}{port} (behind node {})", or(&end.node)),
        EndKind::UnknownPod => format!("{address}{port} (unknown pod)"),
        EndKind::World => format!("{address}{port} (world)"),
    }
}

/// The reason, and the policies behind it.
fn why(flow: &Flow) -> String {
    let policies = text::policies(&flow.policies);
    let reason = Reason::ALL
        .iter()
        .find(|reason| reason.name() == flow.reason)
        .copied();
    let Some(reason) = reason else {
        return escape(&flow.reason).into_owned();
    };
    if flow.verdict == Verdict::Audited && !policies.is_empty() {
        return format!("would be denied by {policies}");
    }
    let plain = match reason {
        Reason::NoRule if policies.is_empty() => "no rule matched",
        Reason::NoRule => return format!("no rule matched (isolated by {policies})"),
        Reason::Rule if policies.is_empty() => "by a rule",
        Reason::Rule => {
            let rule = flow.rule.map(|rule| format!(" rule {rule}")).unwrap_or_default();
            return format!("by {policies}{rule}");
        }
        Reason::Unknown => "unknown",
        Reason::NotIsolated => "no policy isolates the pod",
        Reason::Established => "connection was allowed",
        Reason::OwnNode => "from the pod's own node",
        Reason::SelfTraffic => "from the pod to itself",
        Reason::Pending => "the pod's policy is not in force yet",
        Reason::Spoofed => "the source address is not the pod's",
        Reason::NotIp => "neither IP nor ARP",
        Reason::Malformed => "malformed header",
        Reason::Fragment => "fragment without a first one",
        Reason::Vlan => "VLAN tag",
        Reason::WrongDestination => "not an address of the pod",
        Reason::Related => "ICMP error about an allowed connection",
        Reason::Neighbour => "ARP or neighbour discovery",
        Reason::Deferred => "judged after address translation",
        Reason::FlowTable => "the flow could not be stored",
        Reason::MidStream => "in the middle of a connection that nobody knows",
        Reason::Tunnel => "to the nodes' tunnel, where it could pass for another pod's",
        Reason::NoBridge => "beyond the pods, and nothing behind the bridge could judge it",
        Reason::Revoked if policies.is_empty() => "policy no longer allows this connection",
        Reason::Revoked => {
            return format!("policy no longer allows this connection (isolated by {policies})");
        }
    };
    plain.to_owned()
}
