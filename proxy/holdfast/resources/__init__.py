"""The resources of the control plane: their fields, the rules on single values, grammars and state tables. No I/O."""
