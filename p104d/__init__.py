"""p104d: a dependable inference machine out of ex-mining NVIDIA cards."""
