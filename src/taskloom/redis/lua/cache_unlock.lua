-- Unlock what is the owner's. KEYS the locks; ARGV[2]: owner.
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[2] then
    redis.call('DEL', key)
  end
end
