//! The whole way from manifests to verdicts, against the judge.
//!
//! ```text
//! World ─► YAML ─► manifests ─► k8s::convert ─► policy World ─► compile ─► reader::lookup  ┐
//!   │                                                  └──────► explain                    ├─ the same answers?
//!   └─► the judge (vethwall_tests::oracle) ────────────────────────────────────────────────┘
//! ```
//! Random worlds, every policy of a small grammar, worlds that once went wrong, and events in any order. VETHWALL_CASES
//! sets how many random worlds are tried; PROPTEST_RNG_SEED which.

pub(crate) mod border;
mod compare;
mod events;
mod exhaustive;
mod exhaustive_tiers;
mod random;
mod replay;

/// How many random cases a test tries, unless VETHWALL_CASES says otherwise.
fn cases(default: u32) -> u32 {
    std::env::var("VETHWALL_CASES").map_or(default, |text| text.parse().expect("VETHWALL_CASES is a number"))
}
