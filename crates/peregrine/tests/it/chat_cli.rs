//! `peregrine chat`.

use crate::support::{Program, Server};
use rustix::process::Signal;
use serde_json::{Value, json};

const ITALY: &str = "What is the capital of Italy?";
const FRANCE: &str = "And what is the capital of France?";

/// A greedy answer to a prompt in Falcon's format, as `generate` prints it.
async fn answer(prompt: &str) -> String {
    let arguments = ["generate", prompt, "--max-new-tokens", "20", "--stop", "\nUser:"];
    let printed = Program::new(arguments).run().await.success();
    printed.trim_end_matches('\n').trim_end_matches("\nUser:").trim_start().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn each_line_of_a_pipe_is_a_turn() {
    let first = answer(&format!("User: {ITALY}\nFalcon:")).await;
    assert!(first.contains("Rome"), "{first}");
    let second = answer(&format!("User: {ITALY}\nFalcon: {first}\nUser: {FRANCE}\nFalcon:")).await;
    let folder = tempfile::tempdir().expect("a folder");
    let lines = format!("{ITALY}\n\n{FRANCE}\n/retry\n/save talk.json\n/undo\n/clear\n{ITALY}");
    let chat = Program::new(["chat", "--max-new-tokens", "20"]).dir(folder.path());
    let printed = chat.input(&lines).run().await.success();
    assert_eq!(printed, format!("{first}\n{second}\n{second}\nForgotten: {FRANCE}\n{first}\n"));
    let saved = std::fs::read_to_string(folder.path().join("talk.json")).expect("it was saved");
    let saved: Value = serde_json::from_str(&saved).expect("JSON");
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    let turns =
        [message("user", ITALY), message("assistant", &first), message("user", FRANCE), message("assistant", &second)];
    assert_eq!(saved, json!({"messages": turns, "parameters": {"max_new_tokens": 20}}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn on_a_server_with_errors_that_end_nothing() {
    let server = Server::ready(["--tensor-parallel", "2"]).await;
    let address = server.grpc.to_string();
    let asked = |arguments: &[&str], lines: &str| {
        let arguments: Vec<&str> = [&["chat", "--server", &address][..], arguments].concat();
        Program::new(arguments).input(lines).run()
    };
    let lines =
        format!("/temperature -1\n/nothing\n/max_tokens 9999\n{ITALY}\n/max-tokens 20\n{ITALY}\n/temperature\n");
    let ended = asked(&[], &lines).await;
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let errors: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!(
        errors[..2],
        ["error: `temperature` must be strictly positive", "error: there is no /nothing; /help lists what there is"]
    );
    assert!(errors[2].contains("`max_new_tokens` must be <= 2048"), "{errors:?}");
    let printed: Vec<&str> = ended.stdout.lines().collect();
    assert!(printed[0].contains("Rome"), "{printed:?}");
    assert_eq!(printed[1..], ["temperature: not set. Divides the logits; above 0"]);
    assert!(!ended.stdout.contains('\x1b'), "no escape codes");

    // Drawn with the same seed, an answer is the same again; the system message is part of the prompt.
    let drawn =
        asked(&["--temperature", "1.5", "--seed", "5", "--max-new-tokens", "12"], "Hello\n/retry\n/system X\n/retry\n");
    let drawn = drawn.await.success();
    let answers: Vec<&str> = drawn.lines().collect();
    assert_eq!(answers[0], answers[1], "{drawn}");
    let wrong = asked(&["--top-p", "2"], "Hello\n").await.failure();
    assert_eq!(wrong, "error: `top_p` must be > 0.0 and < 1.0\n");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn in_a_terminal_ctrl_c_stops_an_answer_and_ctrl_d_ends() {
    let server = Server::ready(["--tensor-parallel", "2"]).await;
    let address = server.grpc.to_string();
    let mut chat =
        Program::new(["chat", "--server", &address, "--ignore-eos", "--stop", "no such text"]).terminal().start();
    chat.prints_text("ctrl-d ends.").await;
    chat.prints_text("> ").await;
    // Tab completes the name.
    chat.types("/max-ne\t1900\r").await;
    chat.types(&format!("{ITALY}\r")).await;
    chat.prints_text("Rome").await;
    chat.signal(Signal::INT);
    chat.prints_text("(stopped)").await;
    // What there is of the answer stays.
    chat.types("/max-tokens 4\r/undo\r").await;
    chat.prints_text(&format!("Forgotten: {ITALY}")).await;
    chat.types(&format!("{FRANCE}\r")).await;
    chat.prints_text("(4 tokens, the first after ").await;
    chat.types("\x04").await;
    let ended = chat.end().await;
    assert_eq!((ended.status.code(), &*ended.stderr), (Some(0), ""), "{ended:?}");

    // A signal that ends the program puts the terminal back.
    let mut chat = Program::new(["chat", "--server", &address]).terminal().start();
    chat.prints_text("> ").await;
    let takes_lines = chat.takes_lines();
    chat.signal(Signal::TERM);
    let ended = chat.end().await;
    assert_eq!((takes_lines, ended.status.code()), (false, Some(143)), "{ended:?}");
    server.stop().await;
}
