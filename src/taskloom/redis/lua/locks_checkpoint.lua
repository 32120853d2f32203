-- Keep a checkpoint, if the lock is the owner's. ARGV[3]: the checkpoint. Returns 1 when it is.
if holder() ~= owner then
  return 0
end
redis.call('HSET', lock, 'checkpoint', ARGV[3])
return 1
