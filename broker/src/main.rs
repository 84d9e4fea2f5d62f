//! The `ottla` binary: command line, logging, signals and exit codes; everything else is in the library.
//!
//! Exit codes: 0 after a clean stop, 1 when something unforeseen went wrong, 2 when the operator has to change
//! something before a start, 3 when data is missing or damaged that was safe on disk, 4 when storage failed while serving
//! and only a new start can tell what is safe. After a full disk has stopped the store, the process begins anew by itself
//! once there is room: it starts its own program in its place, so that every start is the same one. Client
//! commands end with the codes of `cli::failure`; `ottla --help` has all of them.

use std::io::{IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use ottla::cli::{self, Cli, Command, LogFormat, ServeArgs};
use ottla::config::Config;
use ottla::env::Env;
use ottla::{Running, StartError, start};
use ottla_storage::proof::OnLoss;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// RocksDB's allocations go there too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const SUCCESS: u8 = 0;
const FAILURE: u8 = 1;
const EXIT_STORAGE_LOST: u8 = 4;

/// How long the end waits for threads that hang in the disk.
const LAST_TASKS: Duration = Duration::from_millis(300);

/// How a served life ends.
enum End {
    Exit(u8),
    /// There is room on the disk again, and only a new start can tell what is there.
    Anew,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Command::Tables(args) => match cli::tables::tables(&args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                cli::complain(&error);
                ExitCode::FAILURE
            }
        },
        Command::Serve(args) => serve(&args),
        Command::Check(args) => cli::check::run(&args),
        Command::Backup(args) => cli::backup::run(&args),
        Command::Client(command) => cli::run::run(&command),
    }
}

fn serve(args: &ServeArgs) -> ExitCode {
    let environment = match cli::environment() {
        Ok(environment) => environment,
        Err(error) => {
            cli::complain(&error);
            return ExitCode::from(cli::EXIT_USAGE);
        }
    };
    let loaded = Config::load(args.config.as_deref(), environment.into_iter(), &args.sets);
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            cli::complain(&error);
            return ExitCode::from(cli::EXIT_USAGE);
        }
    };
    log_to_stderr(args.log_format);
    for info in &loaded.infos {
        tracing::info!("{info}");
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(loaded.config.num_network_threads)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            cli::complain(&format_args!("cannot start threads: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let on_loss = if args.accept_loss {
        OnLoss::Accept
    } else {
        OnLoss::Refuse
    };
    let asked_to_end = Arc::new(AtomicBool::new(false));
    let end = runtime.block_on(run(loaded.config, on_loss, &asked_to_end));
    runtime.shutdown_timeout(LAST_TASKS);
    leave(match end {
        End::Exit(code) => code,
        // Nobody waits for the signals any more, but they are still caught.
        End::Anew if asked_to_end.load(Ordering::SeqCst) => EXIT_STORAGE_LOST,
        End::Anew => begin_anew(),
    })
}

/// Ends the process at once. An abandoned store is still open, its threads and RocksDB's at work; an ordinary exit would
/// destroy what they stand on, and they would abort the process before it gave its code.
fn leave(code: u8) -> ! {
    // Standard output may be closed.
    let _ = std::io::stdout().flush();
    signal_hook::low_level::exit(code.into())
}

/// Starts this program in the place of this process, with the same arguments, but for the loss that was accepted once.
/// Comes back only where that failed, with the exit code.
fn begin_anew() -> u8 {
    let program = std::env::current_exe().ok().filter(|path| path.exists());
    // Where the file was replaced or removed, the one that runs is still there under this name.
    let program = program.unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    let mut arguments = std::env::args_os();
    let mut command = std::process::Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let error = command
        .args(arguments.filter(|argument| argument != "--accept-loss"))
        .exec();
    cli::complain(&format_args!("cannot begin anew: {error}"));
    EXIT_STORAGE_LOST
}

/// Signals that ask to end, also noted in a flag. The flag comes second: until then the signals end the process by
/// themselves.
fn signals(asked_to_end: &Arc<AtomicBool>) -> std::io::Result<(Signal, Signal)> {
    let caught = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    for number in [SignalKind::terminate(), SignalKind::interrupt()] {
        signal_hook::flag::register(number.as_raw_value(), asked_to_end.clone())?;
    }
    Ok(caught)
}

async fn run(config: Config, on_loss: OnLoss, asked_to_end: &Arc<AtomicBool>) -> End {
    let (mut term, mut int) = match signals(asked_to_end) {
        Ok(caught) => caught,
        Err(error) => {
            cli::complain(&format_args!("cannot listen for signals: {error}"));
            return End::Exit(FAILURE);
        }
    };
    let running = match start(config, Env::system(), on_loss).await {
        Ok(running) => running,
        Err(error) => {
            cli::complain(&error);
            return End::Exit(exit_code(&error));
        }
    };
    print_banner(&running);
    let (storage_lost, anew) = (running.storage_lost.clone(), running.begin_anew.clone());
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        () = storage_lost.cancelled() => {
            cli::complain(&"storage failed; the next start recovers what is safe");
            running.abandon().await;
            return End::Exit(EXIT_STORAGE_LOST);
        }
        () = anew.cancelled() => {
            tracing::info!("there is room on the disk again: beginning anew");
            running.abandon().await;
            return End::Anew;
        }
    }
    tracing::info!("stopping");
    End::Exit(match running.stop().await {
        Ok(()) => {
            tracing::info!("stopped cleanly");
            SUCCESS
        }
        Err(error) => {
            cli::complain(&error);
            exit_code_at_stop(&error)
        }
    })
}

fn exit_code(error: &StartError) -> u8 {
    if error.is_data_lost() {
        return cli::EXIT_DATA_LOST;
    }
    match error {
        StartError::Listen { .. } | StartError::Directory(_) => cli::EXIT_USAGE,
        StartError::Thread(_)
        | StartError::Metadata(_)
        | StartError::Register(_)
        | StartError::Close(_) => FAILURE,
    }
}

fn exit_code_at_stop(error: &StartError) -> u8 {
    match error {
        // A full disk, for one: reads went on until the stop.
        StartError::Close(_) => EXIT_STORAGE_LOST,
        StartError::Listen { .. }
        | StartError::Thread(_)
        | StartError::Directory(_)
        | StartError::Metadata(_)
        | StartError::Register(_) => FAILURE,
    }
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_env("OTTLA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => lines.with_target(false).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}

/// Every connection and every file of the store needs a descriptor.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Where the broker is and what to try first. On standard output, for people and for scripts that wait for it.
fn print_banner(running: &Running) {
    let mut text = format!(
        "Ottla {} serves Kafka clients, cluster {}, node {}, data in {}\n",
        env!("CARGO_PKG_VERSION"),
        running.broker.identity.cluster_id,
        running.broker.identity.node_id,
        running.broker.config.log_dir.display(),
    );
    for (listener, address) in &running.listeners {
        text.push_str(&format!("listening on {} {address}\n", listener.name));
        let advertised = format!("{}:{}", listener.advertised_host, listener.advertised_port);
        if advertised != address.to_string() {
            text.push_str(&format!(
                "  clients are told to connect to {advertised}: they must be able to reach it\n"
            ));
        }
    }
    if let Some(address) = running.metrics_address {
        text.push_str(&format!("metrics on http://{address}/metrics\n"));
    }
    if let Some((_, address)) = running.listeners.first() {
        text.push_str(&format!(
            "try: echo 'key:hello' | kcat -P -b {address} -t greetings -K :\n     kcat -C -b {address} -t greetings -e\n"
        ));
    }
    let mut out = std::io::stdout().lock();
    // Standard output may be closed; the broker serves all the same.
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}
