//! The tests on other kernels: see `vethwall_tests::vm`.

fn main() -> std::process::ExitCode {
    vethwall_tests::vm::main()
}
