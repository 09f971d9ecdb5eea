//! A flannel cluster's network on one machine: see `vethwall_tests::lab`.

fn main() -> std::process::ExitCode {
    vethwall_tests::lab::main()
}
