//! `kassa`, as tests start and kill it.

fn main() -> std::process::ExitCode {
    kassa::main()
}
