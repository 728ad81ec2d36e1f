"""What tests share: builders of core types, virtual time, fakes for the seams."""
