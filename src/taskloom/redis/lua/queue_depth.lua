-- How many tasks are due and with nobody; those of lost leases included. Message: nothing.
local over = redis.call('ZCOUNT', leases, '-inf', now)
local held = redis.call('ZCARD', leases) - over
return redis.call('XLEN', stream) - held + redis.call('ZCOUNT', delayed, '-inf', now)
