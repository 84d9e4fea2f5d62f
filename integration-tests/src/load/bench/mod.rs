//! stub
/// stub
pub fn main(_env: ottla::env::Env) -> std::io::Result<()> {
    Ok(())
}
