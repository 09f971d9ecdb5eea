//! `kubectl vethwall explain`: every agent knows all pods and policies, so the first one that answers will do.

use super::{Node, ask, find, line, runtime};
use crate::{
    api::{ExplainRequest, Peer, explain::Explanation},
    cli::Failure,
    cli::{Streams, text::escape},
    fleet::{NoAnswer, Target},
};

/// Asks about one connection.
pub(crate) fn explain(
    request: &ExplainRequest,
    target: &Target,
    streams: &mut Streams<'_>,
) -> Result<Explanation, Failure> {
    let words = words(request);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let nodes: Result<Vec<Node<Explanation>>, Failure> = runtime()?.block_on(async {
        let fleet = find(target, streams).await?;
        Ok(ask(&fleet, &words).await.into_iter().map(line).collect())
    });
    let mut why = String::new();
    for node in nodes? {
        match node.outcome {
            Ok(explanation) => return Ok(explanation),
            Err(NoAnswer(reason)) if why.is_empty() => why = format!("{}: {reason}", node.name),
            Err(_) => {}
        }
    }
    Err(Failure::Undecided(format!(
        "no agent could answer; {}\nSee them with: kubectl vethwall status",
        escape(&why)
    )))
}

/// The question as arguments. Protocols by number mean the same on every version.
fn words(request: &ExplainRequest) -> Vec<String> {
    let bracketed = |peer: &Peer| match peer {
        Peer::Address { address } if address.is_ipv6() => format!("[{address}]"),
        Peer::Address { .. } | Peer::Pod { .. } => peer.to_string(),
    };
    let (to, protocol) = (bracketed(&request.destination), request.protocol);
    let destination = match request.port {
        Some(port) => format!("{to}:{port}/{protocol}"),
        None => format!("{to}:/{protocol}"),
    };
    let mut words = vec!["explain".to_owned(), bracketed(&request.source), destination];
    if let Some(family) = request.family {
        words.extend(["--family".to_owned(), family.to_string()]);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::peer::{destination, peer};

    #[test]
    fn the_question_arrives_as_it_was_asked() {
        for (from, to) in [
            ("shop/web", "shop/db:5432"),
            ("shop/web", "kube-system/dns:53/UDP"),
            ("2001:db8::7", "[2001:db8::9]:443"),
            ("shop/web", "shop/db:GRE"),
            ("shop/web", "10.0.0.1"),
        ] {
            let there = destination(to).unwrap();
            let request = ExplainRequest {
                source: peer(from).unwrap(),
                destination: there.peer.clone(),
                protocol: there.protocol,
                port: there.port,
                family: None,
            };
            let words = words(&request);
            assert_eq!(peer(&words[1]).unwrap(), request.source);
            assert_eq!(destination(&words[2]).unwrap(), there, "{words:?}");
        }
    }
}
