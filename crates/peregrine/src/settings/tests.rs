use super::show::held;
use super::*;
use clap::CommandFactory;

const LINE: &str = "peregrine serve";

fn words(line: &str) -> Vec<OsString> {
    line.split(' ').map(OsString::from).collect()
}

fn of(line: &str, variables: &[(&str, &str)]) -> Result<(Vec<OsString>, Settings)> {
    let environment = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
    resolve(&crate::Cli::command(), words(line), environment)
}

/// The command line that results.
fn line(line: &str, variables: &[(&str, &str)]) -> String {
    let (arguments, _) = of(line, variables).expect("all is well");
    arguments.join(" ".as_ref()).into_string().expect("text")
}

/// With a file of this text; what is wrong, if anything is.
fn with_file(text: &str, command: &str, variables: &[(&str, &str)]) -> Result<(String, Settings), String> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("p.toml");
    std::fs::write(&path, text).expect("a file");
    let path = path.to_str().expect("text");
    let resolved = of(&format!("{command} --config {path}"), variables);
    let (arguments, settings) = resolved.map_err(|error| format!("{error:#}").replace(path, "p.toml"))?;
    let arguments: Vec<_> =
        arguments.iter().map(|word| word.to_str().expect("text")).filter(|word| *word != path).collect();
    Ok((arguments.join(" ").replace(" --config", ""), settings))
}

#[test]
fn every_flag_of_every_command_has_a_variable_and_a_key() {
    let program = crate::Cli::command();
    let mut seen = 0;
    for command in flags::commands(&program).filter(|command| !command.has_subcommands()) {
        for name in flags::flags(command) {
            let arg = command.get_arguments().find(|arg| arg.get_long() == Some(&name)).expect("a flag");
            let (text, toml, expected) = match flags::is_switch(arg) {
                true => ("true", "true".to_owned(), format!("--{name}")),
                false => ("7", "7".to_owned(), format!("--{name}=7")),
            };
            // These bring others with them.
            if ["sagemaker", "profile"].contains(&&*name) {
                continue;
            }
            let command = format!("peregrine {}", command.get_name());
            let variable = format!("PEREGRINE_{}", name.to_uppercase().replace('-', "_"));
            assert_eq!(line(&command, &[(&variable, text)]), format!("{command} {expected}"));
            let (by_file, _) = with_file(&format!("{name} = {toml}\n"), &command, &[]).expect("a key");
            assert_eq!(by_file, format!("{command} {expected}"));
            seen += 1;
        }
    }
    assert!(seen > 150, "{seen}");
}

/// Beside a service that is called peregrine, Kubernetes sets PEREGRINE_PORT, PEREGRINE_PORT_… and PEREGRINE_SERVICE_… in every pod.
#[test]
fn no_flag_has_a_variable_that_kubernetes_sets() {
    let program = crate::Cli::command();
    for flag in flags::common_flags(&program) {
        let clashes = flag == "port" || flag.starts_with("port-") || flag.starts_with("service-");
        assert!(!clashes, "--{flag}");
    }
}

#[test]
fn sources_have_an_order() {
    let text = "tensor-parallel = 3\nkv-tokens = 3\n[serve]\nkv-tokens = 4\nmax-best-of = 4\nmax-batch-size = 4\n";
    let variables = [
        ("PEREGRINE_MAX_BEST_OF", "5"),
        ("PEREGRINE_MAX_BATCH_SIZE", "5"),
        ("MAX_BATCH_TOTAL_TOKENS", "6"),
        ("MAX_TOTAL_TOKENS", "6"),
        ("PEREGRINE_PAYLOAD_LIMIT", ""),
    ];
    let (line, _) = with_file(text, "peregrine serve --max-batch-size 9", &variables).expect("all is well");
    let mut words: Vec<&str> = line.split(' ').collect();
    words[4..].sort_unstable();
    let expected =
        "peregrine serve --max-batch-size 9 --kv-tokens=4 --max-best-of=5 --max-total-tokens=6 --tensor-parallel=3";
    assert_eq!(words.join(" "), expected);
}

#[test]
fn switches_and_lists() {
    let off = [("PEREGRINE_INSECURE", "false"), ("PEREGRINE_CORS_ALLOW_ORIGIN", "http://a, http://b")];
    let (line, _) = with_file("insecure = true\nreuse-port = true\n", LINE, &off).expect("all is well");
    assert_eq!(line, format!("{LINE} --cors-allow-origin=http://a --cors-allow-origin=http://b --reuse-port"));
    let (line, _) = with_file("[generate]\nstop = ['a, b', \"c\"]\ntemperature = 0.5\n", "peregrine generate x", &[])
        .expect("all is well");
    assert_eq!(line, "peregrine generate x --stop=a, b --stop=c --temperature=0.5");
    assert_eq!(
        with_file("[generate]\nstop = []\n", "peregrine generate x", &[]).expect("all is well").0,
        "peregrine generate x"
    );
}

#[test]
fn what_a_file_must_not_have_is_named_with_its_line() {
    for (text, expected) in [
        ("\nkv_token = 1\n", "p.toml:2: the key kv_token is no flag; the nearest is kv-tokens"),
        (
            "[serve]\n\ntensor-paralell = 1\n",
            "p.toml:3: the key tensor-paralell is no flag; the nearest is tensor-parallel",
        ),
        ("[ctl]\nkv-tokens = 1\n", "p.toml:2: the key kv-tokens is no flag"),
        ("[server]\nkv-tokens = 1\n", "p.toml:1: the section server is no command; the nearest is serve"),
        ("[bench.serv]\nseed = 1\n", "p.toml:1: the section serv is no command; the nearest is serve"),
        ("config = 'x'\n", "p.toml:1: the key config is no flag"),
        ("[worker]\nrank = 1\n", "p.toml:1: the section worker is no command"),
        ("insecure = 3\n", "p.toml:1: insecure: expected true or false, found integer"),
        ("kv-tokens = [1, 2]\n", "p.toml:1: kv-tokens: expected one value, found array"),
        ("kv-tokens = \n", "line 1"),
    ] {
        let error = with_file(text, LINE, &[]).expect_err(text);
        assert!(error.contains(expected), "{text:?}: {error}");
    }
    let missing = of("peregrine serve --config /nowhere.toml", &[]).expect_err("no file");
    assert!(format!("{missing:#}").starts_with("--config /nowhere.toml: No such file"), "{missing:#}");
    let error = of(LINE, &[("PEREGRINE_INSECURE", "perhaps")]).expect_err("no truth");
    assert_eq!(format!("{error:#}"), "PEREGRINE_INSECURE: expected true or false, found \"perhaps\"");
}

#[test]
fn groups_of_commands_have_names_of_their_own() {
    let variables = [("PEREGRINE_MODEL", "/m"), ("PEREGRINE_BENCH_NUM_PROMPTS", "3")];
    assert_eq!(line("peregrine bench serve", &variables), "peregrine bench serve --num-prompts=3");
    let text = "model = '/m'\n[bench.serve]\nmodel = 'name'\n";
    assert_eq!(
        with_file(text, "peregrine bench serve", &[]).expect("all is well").0,
        "peregrine bench serve --model=name"
    );
    assert_eq!(with_file(text, LINE, &[]).expect("all is well").0, "peregrine serve --model=/m");
}

#[test]
fn what_does_not_go_together_with_the_command_line_is_left_out() {
    let asks = "peregrine generate --server localhost:1 -- --x";
    let variables = [("PEREGRINE_MODEL", "/m"), ("PEREGRINE_SEED", "1"), ("PEREGRINE_NO_STEP_AHEAD", "off")];
    let (arguments, settings) = of(asks, &variables).expect("all is well");
    assert_eq!(arguments, words("peregrine generate --server localhost:1 --seed=1 -- --x"));
    let expected = "variable PEREGRINE_MODEL is set for nothing: --model does not go together with --server";
    assert_eq!(settings.unused, [expected]);
    // Of two variables neither is above the other: clap says that.
    let both = [("PEREGRINE_MODEL", "/m"), ("PEREGRINE_SERVER", "localhost:1")];
    let (arguments, settings) = of("peregrine generate x", &both).expect("all is well");
    let error = crate::Cli::command().try_get_matches_from(arguments).expect_err("a conflict");
    assert_eq!(settings.behind(&error).len(), 2, "{error}");
}

#[test]
fn whoever_has_set_what_is_wrong_is_told() {
    let variables = [("PEREGRINE_KV_TOKENS", "many"), ("PEREGRINE_MAX_BEST_OF", "1")];
    let (arguments, settings) = of(LINE, &variables).expect("values are clap's to check");
    let error = crate::Cli::command().try_get_matches_from(arguments).expect_err("no number");
    assert_eq!(settings.behind(&error), ["variable PEREGRINE_KV_TOKENS: --kv-tokens many"]);
}

#[test]
fn only_what_is_nearly_a_flag_is_misspelt() {
    let variables = [
        ("PEREGRINE_TENSOR_PARALEL", "2"),
        ("PEREGRINE_LOG", "info"),
        ("PEREGRINE_CONFIG", ""),
        // Kubernetes sets these beside a service that is called peregrine.
        ("PEREGRINE_SERVICE_HOST", "10.0.0.1"),
        ("PEREGRINE_SERVICE_PORT_HTTP", "8080"),
        ("PEREGRINE_PORT", "tcp://10.0.0.1:8080"),
        ("PEREGRINE_PORT_8080_TCP_ADDR", "10.0.0.1"),
    ];
    let (arguments, settings) = of(LINE, &variables).expect("all is well");
    assert_eq!(arguments, words(LINE));
    let expected = "PEREGRINE_TENSOR_PARALEL is set for nothing; is PEREGRINE_TENSOR_PARALLEL meant?";
    assert_eq!(settings.unused, [expected]);
}

#[test]
fn workers_help_and_what_cannot_be_parsed_see_nothing() {
    let variables = [("PEREGRINE_ALL_REDUCE", "nccl"), ("PEREGRINE_CONFIG", "/nowhere"), ("QUANTIZE", "gptq")];
    for same in ["peregrine", "peregrine worker --rank 1", "peregrine serve --help", "peregrine --version"] {
        assert_eq!(line(same, &variables), same);
    }
    let other = "peregrine ctl status";
    assert_eq!(line(other, &variables[2..]), other, "TGI's variables are for serve");
    let error = of(LINE, &variables[2..]).expect_err("it cannot be followed");
    assert!(error.to_string().starts_with("QUANTIZE is set, and cannot be followed"), "{error}");
}

#[test]
fn the_mode_may_itself_be_set() {
    let variables = [("PEREGRINE_SAGEMAKER", "1"), ("SAGEMAKER_BIND_TO_PORT", "9000")];
    let (arguments, settings) = of(LINE, &variables).expect("all is well");
    assert_eq!(arguments, words("peregrine serve --sagemaker --http-addr=0.0.0.0:9000 --model=/opt/ml/model"));
    assert_eq!(settings.taken[2].origin.to_string(), "--sagemaker");
}

#[test]
fn what_holds_is_shown_with_its_origin() {
    let text = "[serve]\nhttp-addr = '127.0.0.1:1'\n";
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("p.toml");
    std::fs::write(&path, text).expect("a file");
    let variables =
        [("PEREGRINE_CONFIG", path.to_str().expect("text")), ("SM_NUM_GPUS", "2"), ("PEREGRINE_REUSE_PORT", "on")];
    let (arguments, settings) = of("peregrine config --model m --max-best-of=3", &variables).expect("all is well");
    let program = crate::Cli::command();
    let matches = program.clone().try_get_matches_from(arguments).expect("all is well");
    let (_, matches) = matches.subcommand().expect("config");
    let held = held(program.find_subcommand("serve").expect("a command"), matches, &settings);
    let of = |flag: &str| {
        let held = held.iter().find(|held| held.flag == flag).expect("a flag");
        (held.value.clone().unwrap_or_default(), held.from.clone())
    };
    let is = |value: &str, from: &str| (value.to_owned(), from.to_owned());
    assert_eq!(of("model"), is("m", "command line"));
    assert_eq!(of("max-best-of"), is("3", "command line"));
    assert_eq!(of("tensor-parallel"), is("2", "variable SM_NUM_GPUS"));
    assert_eq!(of("reuse-port"), is("on", "variable PEREGRINE_REUSE_PORT"));
    assert_eq!(of("http-addr"), is("127.0.0.1:1", &format!("{}:2", path.display())));
    assert_eq!(of("grpc-addr"), is("127.0.0.1:50051", "default"));
    assert_eq!(of("kv-tokens"), is("", "default"));
    assert_eq!(of("insecure"), is("off", "default"));
}

#[test]
fn secrets_are_not_shown() {
    let program = Command::new("p").subcommand(
        Command::new("serve").arg(Arg::new("token").long("token").hide_env_values(true)).arg(Arg::new("a").long("a")),
    );
    let environment = vec![("PEREGRINE_TOKEN".into(), "hf_x".into()), ("PEREGRINE_A".into(), "1".into())];
    let program = program.arg(Arg::new(CONFIG).long(CONFIG).value_parser(clap::value_parser!(PathBuf)).global(true));
    let (arguments, settings) = resolve(&program, words("p serve"), environment).expect("all is well");
    assert_eq!(arguments, words("p serve --token=hf_x --a=1"));
    let said: Vec<String> = settings.taken.iter().map(|setting| settings.describe(setting)).collect();
    assert_eq!(said, ["variable PEREGRINE_TOKEN: --token (secret)", "variable PEREGRINE_A: --a 1"]);
    let matches = program.clone().try_get_matches_from(arguments).expect("all is well");
    let (_, matches) = matches.subcommand().expect("serve");
    let held = held(program.find_subcommand("serve").expect("a command"), matches, &settings);
    assert_eq!(held[0].value.as_deref(), Some("(secret)"));
}
