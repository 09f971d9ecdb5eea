//! The ten steps of `make demo`, as assertions.

use vethwall_tests::demo;

// Covers: SEMANTICS 3, 36, 39, 41, 43
#[test]
fn every_step_of_the_demo_holds() {
    let name = format!("test-demo-{}", std::process::id());
    let rows = demo::run(&name, &mut |text| println!("{text}")).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(
        rows.last().map(|row| row.step),
        Some(10),
        "the story is told to its end"
    );
    assert!(
        rows.iter().all(|row| row.failure.is_none()),
        "{}",
        demo::table(&rows)
    );
}
