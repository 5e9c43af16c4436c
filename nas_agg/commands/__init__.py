"""Commands of the command line that stand apart; `nas_agg.cli` puts them together."""
