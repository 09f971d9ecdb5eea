//! `vethwall explain`.

mod render;

use std::path::PathBuf;

use clap::Args;

use super::{
    Exit, Failure, Global, Output, Streams,
    fleet::{self, Where},
    offline::Manifests,
    peer::{Destination, check_families, destination, family, peer},
    probes, status,
    text::{escape, json_line},
};
use crate::api::{Client, ExplainRequest, Peer, Request, Response, explain::answer};

#[derive(Debug, Args)]
#[command(after_help = "\
Ends are NAMESPACE/POD, node/NAME or an IP address; an IPv6 address with a port is written
[ADDRESS]:PORT. PROTO is any IP protocol's name, in any case, or its number; without it it is TCP.
Of one without ports the name is enough, DST:ICMP or DST:GRE; by its number it is written DST:/47.
TCP, UDP or SCTP without a port asks whether every port of it is allowed. A connection needs both:
the egress of its source and the ingress of its destination.

The agent of this node is asked, or, with --cluster and as kubectl vethwall, that of any node: each
knows what is enforced now. With --manifests nobody is asked:
the answer is what these files mean, on any machine.

--probes answers one line of JSON after the other, in their order:
  {\"from\":\"shop/web\",\"to\":\"shop/db\",\"port\":5432,\"protocol\":\"TCP\",\"expect\":\"allowed\"}
from, to       as above; both are needed
port           1 to 65535; without it every port must be allowed; ICMP, GRE and others have none
protocol       name or number; TCP if absent
family         4 or 6; if absent, that of the first address which both ends have in common
expect         allowed or denied: makes the line a test
id, name, comment are handed through; what is no probe is an error, and then nothing is answered.

With -o json a line comes back for each:
  {\"from\":..,\"to\":..,\"port\":..,\"protocol\":..,\"family\":4,\"verdict\":\"allowed\",
   \"egress\":{\"verdict\":\"not-selected\",\"policies\":[],\"rule\":null},
   \"ingress\":{\"verdict\":\"allowed\",\"policies\":[\"shop/db\"],\"rule\":{\"policy\":\"shop/db\",\"rule\":1}},
   \"expect\":\"allowed\",\"ok\":true}
verdict        allowed or denied: what is enforced; with \"audited\":true where only audited policies
               would deny it
egress.verdict allowed, denied, or not-selected: no policy selects the source for egress
  .policies    those that do, a ClusterNetworkPolicy by its bare name
  .rule        null or the rule that decided, counted from 1; of a ClusterNetworkPolicy with name,
               action, tier and priority
error          instead of family to ingress: why this line has no answer

Exit status: 0 allowed (audited too), 1 denied, 2 wrong usage, 3 could not decide (no agent answers,
no such pod). With --probes: 0 all are answered and as expected, 1 some are not as expected, 2 a
line is no probe, 3 some could not be decided.

Examples:
  vethwall explain shop/web shop/db:5432
  vethwall explain shop/web kube-system/coredns:53/UDP
  vethwall explain shop/web 203.0.113.9:443 -o json
  vethwall explain 2001:db8::7 '[2001:db8::9]:443'
  vethwall explain shop/web shop/db:GRE --family 6
  vethwall explain --manifests ./cluster shop/web shop/db:5432
  vethwall explain --manifests ./cluster --probes probes.jsonl
  vethwall explain --manifests ./cluster --probes - -o json < probes.jsonl")]
pub(crate) struct ExplainArgs {
    /// Who opens the connection.
    #[arg(value_name = "SRC", value_parser = peer, required_unless_present = "probes")]
    source: Option<Peer>,
    /// To whom, and on which port.
    #[arg(value_name = "DST[:PORT[/PROTO]]", value_parser = destination, required_unless_present = "probes")]
    destination: Option<Destination>,
    /// Answer from this directory of manifests, without an agent.
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// Answer every line of this file (`-`: stdin) instead: a test of policies.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "destination", "family", "all"])]
    probes: Option<PathBuf>,
    /// IPv4 or IPv6, where both ends have both.
    #[arg(long, value_name = "4|6", value_parser = family)]
    family: Option<u8>,
    /// Show every rule, also those that are far from matching.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    place: Where,
}

pub(crate) fn run(args: ExplainArgs, global: &Global, streams: &mut Streams<'_>) -> Result<Exit, Failure> {
    let directory = args.manifests.as_deref();
    let (source, destination) = match (args.probes, args.source, args.destination) {
        (Some(_), _, _) if directory.is_none() && args.place.target().is_some() => {
            return Err(Failure::Usage(
                "--probes asks this node, or --manifests; of a cluster ask SRC and DST".to_owned(),
            ));
        }
        (Some(file), _, _) => return probes::run(&file, directory, global, streams),
        (None, Some(source), Some(destination)) => (source, destination),
        (None, _, _) => return Err(Failure::Usage("name SRC and DST, or --probes".to_owned())),
    };
    let request = ExplainRequest {
        source,
        destination: destination.peer,
        protocol: destination.protocol,
        port: destination.port,
        family: args.family,
    };
    check_families(&request).map_err(Failure::Usage)?;
    let explanation = match directory {
        Some(directory) => {
            let loaded = Manifests::load(directory, streams)?;
            let explanation = answer(&loaded.world, &request).map_err(|body| {
                Failure::Undecided(format!("{} in {}", escape(&body.message), loaded.shown))
            })?;
            loaded.readable()?;
            explanation
        }
        None if args.place.target().is_some() => {
            let target = args.place.target().unwrap_or_default();
            fleet::explain(&request, &target, streams)?
        }
        None => {
            let response = Client::ask_one(&global.run_dir, Request::Explain(request))?;
            let Response::Explanation(explanation) = response else {
                return Err(status::unexpected(global, &response).into());
            };
            *explanation
        }
    };
    let text = match global.output {
        Output::Json => json_line(&explanation)?,
        Output::Table => render::render(&explanation, args.all),
    };
    streams.out.write_all(text.as_bytes())?;
    Ok(if explanation.passes() { Exit::Yes } else { Exit::No })
}
