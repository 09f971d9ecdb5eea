//! Where programs are attached, and what their pins are called.

use vethwall_common::maps;

use crate::sys;

/// One of our attachment points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Point {
    PodIngress,
    PodEgress,
    Bridge,
}

impl Point {
    pub(crate) const ALL: [Self; 3] = [Self::PodIngress, Self::PodEgress, Self::Bridge];

    fn suffix(self) -> &'static str {
        match self {
            Self::PodIngress => "ingress",
            Self::PodEgress => "egress",
            Self::Bridge => "bridge",
        }
    }

    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::PodIngress => maps::FROM_POD,
            Self::PodEgress => maps::TO_POD,
            Self::Bridge => maps::FROM_BRIDGE,
        }
    }

    pub(crate) fn tcx(self) -> u32 {
        match self {
            Self::PodIngress | Self::Bridge => sys::TCX_INGRESS,
            Self::PodEgress => sys::TCX_EGRESS,
        }
    }

    pub(crate) fn is_egress(self) -> bool {
        self == Self::PodEgress
    }

    pub(crate) fn pin_name(self, ifindex: u32) -> String {
        format!("{ifindex}-{}", self.suffix())
    }

    pub(crate) fn parse(name: &str) -> Option<(u32, Self)> {
        let (ifindex, suffix) = name.split_once('-')?;
        let point = Self::ALL.into_iter().find(|point| point.suffix() == suffix)?;
        Some((ifindex.parse().ok()?, point))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pins_lead_back() {
        for point in Point::ALL {
            assert_eq!(Point::parse(&point.pin_name(41)), Some((41, point)));
        }
        for name in ["41", "41-", "x-ingress", "41-ingress-new", "-bridge", ""] {
            assert_eq!(Point::parse(name), None, "{name}");
        }
    }
}
