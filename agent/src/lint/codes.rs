//! Every code, and how grave it is.

use serde::Serialize;

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The API server refuses it, or part of it means nothing.
    Error,
    /// It probably does something else than was meant.
    Warning,
    /// Worth knowing; often meant.
    Info,
}

impl Severity {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// A kind of mistake. The code never changes its meaning.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// `LINT` and three digits.
    pub id: &'static str,
    /// How grave it is, unless a finding says otherwise.
    pub severity: Severity,
    /// What it finds, as the heading of its section in docs/lint.md.
    pub title: &'static str,
}

macro_rules! codes {
    ($($name:ident $id:literal $severity:ident $title:literal;)*) => {
        $(pub(super) const $name: &Code = &Code { id: $id, severity: Severity::$severity, title: $title };)*

        /// All codes, in order.
        pub const CODES: &[&Code] = &[$($name),*];
    };
}

codes! {
    // The file and the object.
    DECODE "LINT001" Error "An object that can not be read";
    UNKNOWN_FIELD "LINT002" Error "A field that nobody knows";
    TWICE "LINT003" Error "The same object twice";
    ANNOTATION "LINT004" Warning "An annotation that means nothing";
    FOREIGN "LINT005" Warning "A kind of policy that is not enforced";
    // Peers and rules.
    TWO_PEERS "LINT010" Warning "Two peers where one was probably meant";
    TWO_RULES "LINT011" Warning "Two rules where one was probably meant";
    BAD_PEER "LINT012" Error "A peer that matches nothing";
    REPEATED "LINT013" Warning "The same entry twice in a list";
    EMPTY_LIST "LINT014" Warning "An empty list that means everything";
    // Selectors.
    NO_SUBJECT "LINT020" Warning "A policy that selects no pod";
    NO_PEER "LINT021" Warning "A peer that matches no pod";
    NO_NAMESPACE "LINT022" Warning "A namespace selector that matches no namespace";
    NAME_LABEL "LINT023" Warning "The label name where kubernetes.io/metadata.name is meant";
    MISSING_NAMESPACE "LINT024" Warning "A namespace that does not exist";
    EMPTY_NAMESPACE "LINT025" Info "A policy in a namespace without pods";
    BAD_SELECTOR "LINT026" Error "A selector that is not valid";
    HOST_SUBJECT "LINT027" Warning "A policy that selects only hostNetwork pods";
    HOST_PEER "LINT028" Warning "A peer that matches only hostNetwork pods";
    // Blocks of addresses.
    BAD_CIDR "LINT030" Error "A CIDR that is none";
    ODD_CIDR "LINT031" Warning "A CIDR that means another one";
    EXCEPT_OUTSIDE "LINT032" Error "An except outside its block";
    EXCEPT_ALL "LINT033" Error "An except that takes the whole block";
    POD_RANGE "LINT034" Warning "A block of pod addresses";
    SERVICE_RANGE "LINT035" Warning "A block of Service addresses";
    // Ports.
    NO_PROTOCOL "LINT040" Warning "A UDP service without protocol";
    BACKWARDS "LINT041" Error "A range of ports that runs backwards";
    BAD_END "LINT042" Error "An endPort without a number to start from";
    NO_NAMED_PORT "LINT043" Warning "A named port that no pod has";
    OTHER_PROTOCOL "LINT044" Warning "A named port of another protocol";
    QUOTED "LINT045" Error "A port number in quotes";
    BAD_PROTOCOL "LINT046" Error "A protocol that policies do not know";
    BAD_PORT "LINT047" Error "A port number out of range";
    BAD_PORT_NAME "LINT048" Error "A port name that no port can have";
    // Directions.
    ALLOWS_ALL "LINT050" Warning "An empty rule where denying seems meant";
    INERT "LINT051" Warning "Rules of a direction that policyTypes leaves out";
    DENIES_ALL "LINT052" Info "A direction without rules";
    ALSO_INGRESS "LINT053" Warning "Egress rules that deny all ingress too";
    BAD_TYPE "LINT054" Error "A policy type that is none";
    NO_DNS "LINT060" Warning "Egress without DNS";
    DNS_UDP "LINT061" Info "DNS over UDP only";
    // ClusterNetworkPolicies.
    PRIORITY "LINT070" Warning "Equal priorities in a tier";
    UNREACHABLE "LINT071" Warning "A rule that is never reached";
    FAILS_CLOSED "LINT072" Error "A peer or protocol that is not known";
    CUTS_DNS "LINT073" Warning "A Deny that cuts DNS";
    BAD_CLUSTER "LINT074" Error "A ClusterNetworkPolicy that is not complete";
}

/// The code of this name.
pub fn code(id: &str) -> Option<&'static Code> {
    CODES.iter().copied().find(|code| code.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_in_order_and_each_is_there_once() {
        let ids: Vec<_> = CODES.iter().map(|code| code.id).collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
        assert!(ids.iter().all(|id| id.len() == 7 && id.starts_with("LINT")));
        assert_eq!(code("LINT010"), Some(TWO_PEERS));
        assert_eq!(code("LINT999"), None);
    }
}
