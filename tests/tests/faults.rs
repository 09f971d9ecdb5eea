//! Every fault of a node once; `vethwall-faults` draws a thousand.

use vethwall_tests::{
    faults::{Fault, Plan, rounds, run},
    runtime::Release,
};

#[test]
fn nothing_forbidden_arrives_whatever_happens_to_the_node() {
    let plan = Plan {
        release: Release::Newest,
        rounds: rounds(1, Fault::ALL.len(), &Fault::ALL),
        crowd: 10,
    };
    let report = run(&plan, |_, _, _| ()).unwrap_or_else(|error| panic!("{error:#}"));
    // What is not sent can not arrive, nor be counted by a counter that counts nothing.
    assert!(
        report.forbidden_sent > 1000 && report.packets_allowed > 1000,
        "{report}"
    );
    assert_eq!(report.packets_forbidden, 0, "{report}");
    assert!(
        report.faults.values().all(|times| *times == 1) && report.faults.len() == Fault::ALL.len(),
        "{report}"
    );
}
