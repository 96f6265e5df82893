"""The stores: one module per place where papers can live, each behind `agentq.store.Store`."""
